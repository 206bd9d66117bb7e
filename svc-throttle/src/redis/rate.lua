-- One rate: a debt in units that runs off, as bucket.rs and grain.rs say. Fields: d debt, t when that was right, w units of
-- a token, r units that run off in a microsecond, p tokens of the burst that are kept for nodes that may be cut off, x until
-- when the key lasts by Redis' time; l, m, b the limit, its period and burst as given; z: reset, as good as not there.
local d, at, w, r, p, lasts
local stored

local function read()
  local s = redis.call('HMGET', KEYS[1], 'd', 't', 'w', 'r', 'p', 'x', 'z', 'l', 'm', 'b')
  if not s[1] then
    d, at = 0, now
    return false, false
  end
  d, at, w, r, p, lasts = tonumber(s[1]), tonumber(s[2]), tonumber(s[3]), tonumber(s[4]), tonumber(s[5]), tonumber(s[6])
  stored = {w = w, r = r, p = p, z = s[7], l = s[8], m = s[9], b = s[10]}
  return true, s[7] == '1'
end

local function run_off(debt, since, speed)
  if now >= since then
    return math.max(0, debt - (now - since) * speed), now
  elseif since - now > 1000000 then
    -- The clock was set back: the debt runs off from here.
    return debt, now
  end
  return debt, since
end

-- The same tokens in other units, rounded up.
local function convert(debt, from, to)
  if from == to then
    return debt
  end
  local whole = floor_div(debt, from)
  local rest = (debt - whole * from) * to
  local part = ceil_div(rest, from)
  if rest >= EXACT then
    part = part + 1
  end
  return math.min(whole * to + part, EXACT - 1)
end

-- Lets the debt run off, and counts in these units with this much kept from now on. What is kept more comes off the debt,
-- since the nodes that it is kept for begin with as much; what is kept less comes on, since they may owe as much.
local function follow(weight, speed, kept, most)
  local off = r
  if kept > p then
    -- Since when they may use it is not known: as slowly as from now on.
    off = (w == weight) and math.min(r, speed) or 0
  end
  d, at = run_off(d, at, off)
  d = convert(d, w, weight)
  if kept > p then
    d = math.max(0, d - (kept - p) * weight)
  elseif kept < p then
    d = math.max(d, math.min(d + (p - kept) * weight, most * weight))
  end
  w, r, p = weight, speed, kept
end

-- slowest: units that run off in a microsecond when all others keep their shares. The key never lasts shorter than any node
-- was told that its debt lasts.
local function save(limit, period, burst, slowest)
  local s = stored
  if s and s.w == w and s.r == r and s.p == p and s.l == limit and s.m == period and s.b == burst and s.z == '0' then
    redis.call('HSET', KEYS[1], 'd', d, 't', at)
  else
    redis.call('HSET', KEYS[1], 'd', d, 't', at, 'w', w, 'r', r, 'p', p, 'l', limit, 'm', period, 'b', burst, 'z', '0')
  end
  local need = clock + math.max(0, at - now) + d / slowest + 100000
  if not lasts or need > lasts then
    lasts = need + (need - clock) / 4
    redis.call('HSET', KEYS[1], 'x', lasts)
    redis.call('PEXPIRE', KEYS[1], lasting_ms(lasts - clock))
  end
end
