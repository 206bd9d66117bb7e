-- Takes a limit's part of an ask, or says how long to wait: take_one of memory.rs.
-- ARGV: 4 the limit's count, 5 the ask's, 6 how much of it at most, 7 partial, 8 look only, 9 weight, 10 run-off, 11 burst,
-- 12 tokens kept for others, 13 burst of the whole, 14 slowest run-off, 15 the caller knows of a debt, 16 limit, 17 period,
-- 18 burst as given. Answers what was taken of the ask (0: nothing), how long to wait, the debt, and when that was right.
local count, whole, granted = number(4), number(5), number(6)
local weight, speed, burst, kept = number(9), number(10), number(11), number(12)

local there = read()
if there then
  follow(weight, speed, kept, number(13))
elseif ARGV[15] == '1' then
  return {LOST}
else
  w, r, p = weight, speed, kept
end

local most = burst * weight
local took = granted
if ARGV[7] == '1' then
  local free = floor_div(math.max(0, most - d), weight)
  local share = free * whole
  share = share < EXACT and floor_div(share, count) or math.floor(free * (whole / count) * (1 - 1e-12))
  took = math.max(math.min(granted, share), 1)
end
local tokens = count
if took ~= whole then
  tokens = count * took
  tokens = tokens < EXACT and ceil_div(tokens, whole) or math.ceil(count * (took / whole) * (1 + 1e-12))
  tokens = math.min(tokens, count)
end

local over = d + tokens * weight - most
local wait = 0
if over > 0 then
  took = 0
  -- Where all is kept for others, that may change soon.
  wait = speed == 0 and 1000000 or math.min(ceil_div(over, speed) + math.max(0, at - now), EXACT - 1)
elseif ARGV[8] ~= '1' then
  d = d + tokens * weight
end
save(ARGV[16], ARGV[17], ARGV[18], number(14))
return {OK, took, wait, d, at}
