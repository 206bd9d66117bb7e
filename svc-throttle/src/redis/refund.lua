-- Gives tokens back. ARGV: 4 how many. Answers the debt, and when that was right; nothing where the key is unknown.
if not read() then
  return {OK}
end
d, at = run_off(d, at, r)
d = math.max(0, d - number(4) * w)
redis.call('HSET', KEYS[1], 'd', d, 't', at)
return {OK, d, at}
