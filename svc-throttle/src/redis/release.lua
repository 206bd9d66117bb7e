-- Lets slots of one key go. ARGV from `argument`: the ids.
if not there then
  return {OK}
end
local gone = {}
for place = argument, #ARGV do
  gone[ARGV[place]] = true
end
local left = {}
for _, slot in ipairs(s.held) do
  if not gone[slot[1]] then
    left[#left + 1] = slot
  end
end
s.held = left
save()
return {OK}
