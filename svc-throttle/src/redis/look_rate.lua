-- A rate as it stands: limit, period and burst as given, tokens free, and until when there is none.
local there, reset = read()
if not there or reset then
  return {OK}
end
d, at = run_off(d, at, r)
local most = (tonumber(stored.b) - p) * w
local free = floor_div(math.max(0, most - d), w)
local empty_until = 0
if free == 0 then
  empty_until = now + (r == 0 and 1000000 or ceil_div(math.max(1, d + w - most), r) + math.max(0, at - now))
end
return {OK, stored.l, stored.m, stored.b, free, empty_until}
