-- Slots as they stand: limit, held, waiters, then who holds, once a slot.
if not there or s.reset == 1 then
  return {OK}
end
local answer = {OK, s.limit, #s.held, #s.waiters}
for _, slot in ipairs(s.held) do
  answer[#answer + 1] = slot[2]
end
return answer
