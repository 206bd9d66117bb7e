-- One key's counted slots, as lease.rs says. One value: the limit, who holds (id, holder, node, until, ttl, and 1 where it
-- is lost but counts until then), who waits in turn (holder, wanted, until, ttl), and whether it was reset.
-- ARGV: 4 how many nodes may be cut off, then five each: name, and of two rosters the nodes and its place among them.
local there = false
local s = {limit = 0, held = {}, waiters = {}, reset = 0}
local raw = redis.call('GET', KEYS[1])
if raw then
  there = true
  s = cmsgpack.unpack(raw)
end

local stale = {}
local argument = 5
for _ = 1, number(4) do
  stale[ARGV[argument]] = {number(argument + 1), number(argument + 2), number(argument + 3), number(argument + 4)}
  argument = argument + 5
end

-- What seems to last longer than its ttl is from before the clock was set back, and starts again.
local function lasting(list, until_place)
  local left = {}
  for _, entry in ipairs(list) do
    entry[until_place] = math.min(entry[until_place], now + entry[until_place + 1])
    if entry[until_place] > now then
      left[#left + 1] = entry
    end
  end
  return left
end

s.held = lasting(s.held, 4)
s.waiters = lasting(s.waiters, 3)

local function part(limit, of, place)
  if of == 0 then
    return 0
  end
  return math.floor(limit / of) + (place < limit % of and 1 or 0)
end

-- How many of so many slots are for those who can be reached: a node that may be cut off has what it holds, and at least
-- its share.
local held_by
local function reachable(limit)
  if not held_by then
    -- Once: what those have who may be cut off does not change while a script runs.
    held_by = {}
    for _, slot in ipairs(s.held) do
      held_by[slot[3]] = (held_by[slot[3]] or 0) + 1
    end
  end
  for name, ranks in pairs(stale) do
    local share = math.max(part(limit, ranks[1], ranks[2]), part(limit, ranks[3], ranks[4]))
    limit = limit - math.max(share, held_by[name] or 0)
  end
  return math.max(0, limit)
end

-- Held by those who can be reached, and how many of these are lost already.
local function reached()
  local count, ending = 0, 0
  for _, slot in ipairs(s.held) do
    if not stale[slot[3]] then
      count = count + 1
      ending = ending + slot[6]
    end
  end
  return count, ending
end

local function save()
  local last = 0
  for _, slot in ipairs(s.held) do
    last = math.max(last, slot[4])
  end
  for _, waiter in ipairs(s.waiters) do
    last = math.max(last, waiter[3])
  end
  if s.reset == 1 then
    redis.call('SET', KEYS[1], cmsgpack.pack(s), 'KEEPTTL')
  else
    -- A while longer, so that an ask on its way that knows of slots just released does not take the key for lost.
    redis.call('SET', KEYS[1], cmsgpack.pack(s), 'PX', lasting_ms(math.max(0, last - now) + 5000000))
  end
end
