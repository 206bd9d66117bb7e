-- The nodes that share this Redis: their leases, the roster by which limits fall into shares, and the epoch.
-- KEYS: 1 the state, 2 the epoch, which the scripts on limits look at.
-- ARGV: 1 'look', 'join', 'renew' or 'leave', 2 the node, 3 its process, 4 the lease's end that it asks for, 5 a lease's length,
-- 6 after how long without a lease a node is forgotten, 7 the latest roster that it has seen, 8 the epoch for which it has
-- put back all it remembers, 9 the epoch in which Redis forgot its scripts, 10 the last epoch that it knows, then what it
-- remembers: rosters (version, count, names; twice) and members (count; name, lease's end).
-- Answers 0 where another process is the node, else 1; the time, the epoch, 1 where limits are served, both rosters (version,
-- names) and the members (name, lease's end).
if not redis.REDIS_VERSION_NUM then
  return redis.error_reply('ERR Redis 7 or later is needed')
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local mode, me, process = ARGV[1], ARGV[2], ARGV[3]
local lease_end, lease, forget = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local seen, restored, suspect, known = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])

local argument = 11
local function roster_argument()
  local roster = {version = tonumber(ARGV[argument]), names = {}}
  for place = 1, tonumber(ARGV[argument + 1]) do
    roster.names[place] = ARGV[argument + 1 + place]
  end
  argument = argument + 2 + #roster.names
  return roster
end
local remembered, remembered_next = roster_argument(), roster_argument()
local ends = {}
for _ = 1, tonumber(ARGV[argument]) do
  ends[ARGV[argument + 1]] = tonumber(ARGV[argument + 2])
  argument = argument + 2
end

-- members: lease (its end), seen, restored, process.
local raw = redis.call('GET', KEYS[1])
local s = raw and cmsgpack.unpack(raw)
local epoch = redis.call('GET', KEYS[2])
if not s or epoch ~= string.format('%.0f', s.epoch) or s.epoch == suspect then
  -- What was here may be gone, the limits with it. Nobody is served until all that live have put back what they remember;
  -- a while at least, in which those that nobody here knows of come by.
  s = s or {epoch = 0, agreed = {version = 0, names = {}}, next = {version = 0, names = {}}, members = {}}
  s.epoch = math.max(now, s.epoch + 1, known + 1)
  s.opens = now + math.floor(lease * 3 / 10)
  s.open = 0
  for _, member in pairs(s.members) do
    member.restored = 0
  end
end
if remembered.version > s.agreed.version or (remembered_next.version > s.next.version and s.open == 0) then
  -- The state is older than what this node knows.
  if remembered.version > s.agreed.version then
    s.agreed = remembered
  end
  if remembered_next.version > math.max(s.next.version, s.agreed.version) then
    s.next = remembered_next
  end
  for name, lease_end_known in pairs(ends) do
    if not s.members[name] then
      s.members[name] = {lease = math.min(lease_end_known, now + lease), seen = 0, restored = 0, process = ''}
    end
  end
end

local function has(names, name)
  for _, other in ipairs(names) do
    if other == name then
      return true
    end
  end
  return false
end

local mine = 1
if mode == 'leave' then
  s.members[me] = nil
elseif mode ~= 'look' and lease_end > now then
  local member = s.members[me]
  if mode == 'renew' and member and member.process ~= process and member.process ~= '' and member.lease > now then
    mine = 0
  else
    member = member or {lease = 0}
    member.lease = math.max(member.lease, math.min(lease_end, now + 2 * lease))
    member.seen, member.restored, member.process = seen, restored, process
    s.members[me] = member
  end
end

-- Who has been away for long is forgotten, and who has no share yet as soon as it is away.
local names = {}
for name, member in pairs(s.members) do
  local keep = has(s.agreed.names, name) and forget or 0
  if member.lease + keep <= now then
    s.members[name] = nil
  else
    names[#names + 1] = name
  end
end
table.sort(names)

if s.open == 0 and now >= s.opens and #names > 0 then
  s.open = 1
  for _, member in pairs(s.members) do
    if member.lease > now and member.restored ~= s.epoch then
      s.open = 0
    end
  end
end

local function same(one, other)
  return table.concat(one, ' ') == table.concat(other, ' ')
end
if s.open == 1 then
  local wanted = s.next.version > s.agreed.version and s.next or s.agreed
  if not same(wanted.names, names) then
    s.next = {version = math.max(now, s.next.version + 1, s.agreed.version + 1), names = names}
  end
  if s.next.version > s.agreed.version then
    local all = true
    for _, member in pairs(s.members) do
      all = all and member.seen >= s.next.version
    end
    if all then
      s.agreed = s.next
    end
  end
end
redis.call('SET', KEYS[1], cmsgpack.pack(s), 'PX', math.ceil((2 * forget + lease) / 1000) + 3600000)
redis.call('SET', KEYS[2], string.format('%.0f', s.epoch), 'PX', math.ceil((2 * forget + lease) / 1000) + 3600000)

local answer = {mine, now, s.epoch, s.open}
for _, roster in ipairs({s.agreed, s.next.version > s.agreed.version and s.next or {version = 0, names = {}}}) do
  answer[#answer + 1] = roster.version
  answer[#answer + 1] = roster.names
end
for name, member in pairs(s.members) do
  answer[#answer + 1] = name
  answer[#answer + 1] = member.lease
end
return answer
