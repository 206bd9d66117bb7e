-- Takes slots for asks of one key, each in its turn: acquire of lease.rs.
-- ARGV from `argument`: what the ids begin with, the first's number, the waiters at most, the asking node, whether it knows
-- of slots that last; then four an ask: holder, count, limit, ttl. Answers the time, then of each ask how many were given,
-- its place, how soon to ask again, and whether it was turned away.
local prefix, next_number, waiters_max, node = ARGV[argument], number(argument + 1), number(argument + 2), ARGV[argument + 3]
if not there and ARGV[argument + 4] == '1' then
  return {LOST}
end
s.reset = 0
-- Counted once: there may be thousands of slots, and a thousand asks.
local used = reached()

local function acquire(holder, count, limit, ttl)
  s.limit = limit
  local place, promised = #s.waiters + 1, 0
  for at, waiter in ipairs(s.waiters) do
    if waiter[1] == holder then
      place = at
      break
    end
    promised = promised + waiter[2]
  end
  local free = math.max(0, reachable(limit) - used - promised)
  local given = math.min(free, count)
  for _ = 1, given do
    s.held[#s.held + 1] = {string.format('%s%016x', prefix, next_number), holder, node, now + ttl, ttl, 0}
    next_number = next_number + 1
  end
  used = used + given
  local wanted, turned_away = count - given, 0
  if place <= #s.waiters then
    if wanted == 0 then
      table.remove(s.waiters, place)
    else
      s.waiters[place] = {holder, wanted, now + ttl, ttl}
    end
  elseif wanted > 0 and #s.waiters >= waiters_max then
    turned_away = 1
  elseif wanted > 0 then
    s.waiters[place] = {holder, wanted, now + ttl, ttl}
  end
  if wanted == 0 then
    return given, 0, 0, 0
  end
  return given, place, math.min(100000 * place, math.max(math.floor(ttl / 3), 1)), turned_away
end

local answer = {OK, now}
for first = argument + 5, #ARGV, 4 do
  local given, place, wait, turned_away = acquire(ARGV[first], number(first + 1), number(first + 2), number(first + 3))
  answer[#answer + 1] = given
  answer[#answer + 1] = place
  answer[#answer + 1] = wait
  answer[#answer + 1] = turned_away
end
save()
return answer
