-- Puts a debt back that a node remembers, or one that it has on its own share.
-- ARGV: 4 'remembered' or 'own', 5 debt, 6 when that was right, 7 weight, 8 run-off, 9 tokens kept for others, 10 burst of
-- the whole, 11 slowest run-off, 12 limit, 13 period, 14 burst as given. Answers the debt, when that was right, and its
-- weight, run-off and tokens kept.
local debt, since, weight, speed, kept = number(5), number(6), number(7), number(8), number(9)
local there = read()
if ARGV[4] == 'remembered' then
  debt = run_off(debt, since, speed)
  if not there then
    d, at, w, r, p = debt, now, weight, speed, kept
  else
    -- Either may know of what the other does not; the later one knows of all, and so owes more.
    d, at = run_off(d, at, r)
    d = math.max(d, convert(debt, weight, w) + (kept - p) * w)
  end
elseif not there then
  d, at, w, r, p = debt, now, weight, speed, kept
else
  -- While it was on its share, the rest ran off more slowly.
  d, at = run_off(d, at, w == weight and math.min(r, speed) or 0)
  d = math.max(d, math.min(d + convert(debt, weight, w), number(10) * w))
end
save(ARGV[12], ARGV[13], ARGV[14], number(11))
return {OK, d, at, w, r, p}
