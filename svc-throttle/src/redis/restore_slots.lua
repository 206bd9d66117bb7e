-- Puts slots back that a node remembers. ARGV from `argument`: the node, the limit, 1 where these are all that it holds;
-- then five each: id, holder, until, ttl, 1 where it is lost but counts until then.
local node, limit = ARGV[argument], number(argument + 1)
if s.limit == 0 then
  s.limit = limit
end
local by_id, left = {}, {}
for _, slot in ipairs(s.held) do
  by_id[slot[1]] = slot
end
for first = argument + 3, #ARGV, 5 do
  local slot = by_id[ARGV[first]]
  if not slot then
    slot = {ARGV[first], ARGV[first + 1], node, 0, 0, 0}
    s.held[#s.held + 1] = slot
  end
  slot[4], slot[5] = math.max(slot[4], number(first + 2)), number(first + 3)
  slot[6] = math.max(slot[6], number(first + 4))
  slot.told = true
end
for _, slot in ipairs(s.held) do
  if slot.told or slot[3] ~= node or ARGV[argument + 2] ~= '1' then
    slot.told = nil
    left[#left + 1] = slot
  end
end
s.held = lasting(left, 4)
s.reset = 0
save()
return {OK}
