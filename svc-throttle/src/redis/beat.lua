-- Keeps slots of one key for another ttl. Those over what is left beside the shares of nodes that may be cut off are lost,
-- but count until they run out. ARGV from `argument`: ttl, whether the caller knows of slots that last, then the ids.
-- Answers the time, the waiters, then of each: 0 not held, 1 kept, 2 lost but counting.
if not there then
  if ARGV[argument + 1] == '1' then
    return {LOST}
  end
  local answer = {OK, now, 0}
  for _ = argument + 2, #ARGV do
    answer[#answer + 1] = 0
  end
  return answer
end

local ttl = number(argument)
local surplus = 0
if next(stale) then
  local count, ending = reached()
  surplus = count - ending - reachable(s.limit)
end
local by_id = {}
for _, slot in ipairs(s.held) do
  by_id[slot[1]] = slot
end
local answer = {OK, now, #s.waiters}
for place = argument + 2, #ARGV do
  local slot = by_id[ARGV[place]]
  if not slot then
    answer[#answer + 1] = 0
  else
    if slot[6] == 0 and surplus > 0 and not stale[slot[3]] then
      slot[6] = 1
      surplus = surplus - 1
    end
    if slot[6] == 0 then
      slot[4], slot[5] = now + ttl, ttl
    end
    answer[#answer + 1] = slot[6] + 1
  end
end
save()
return answer
