-- Forgets a debt. The key stays, so that nodes which remember the debt do not take it for lost. Answers whether it was there.
local there, reset = read()
if not there or reset then
  return {OK, 0}
end
redis.call('HSET', KEYS[1], 'd', 0, 'z', 1)
return {OK, 1}
