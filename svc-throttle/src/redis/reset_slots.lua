-- Forgets slots and who waits for them, and stays like a rate that is reset. Answers whether there were any.
if not there or s.reset == 1 then
  return {OK, 0}
end
s.held, s.waiters, s.reset = {}, {}, 1
save()
return {OK, 1}
