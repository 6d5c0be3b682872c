-- One step of a project's presence: applies operations, gives up users whose grace is over, and announces
-- what is due. Atomic, so each change is announced once, by whoever gets here first.
--
-- KEYS[1]  base of the project's keys; all others extend it and so share its slot
-- ARGV     holder, previous holder or '', batch ms, grace ms, most users in a delta; then five per operation:
--          kind, room, user, connection, state ('' is none)
-- Returns  ms until the next step is due (-1: never), sessions of a dead holder still to be reaped, deltas
--
-- {base}:sessions:{room}  HASH user -> packed list of {session, state}, the latest set last; a session ''
--                         keeps the state of a lost one
-- {base}:users:{room}     HASH user -> the state shown       {base}:names:{room}  ZSET of the same users
-- {base}:dirty:{room}     HASH user -> '' or '=' and the state, as last announced
-- {base}:quiet:{room}     exists for a batch time after a delta
-- {base}:flush            ZSET room -> when its delta is due  {base}:grace  ZSET user:room -> when given up
-- {base}:version:{room}   when its last delta was announced; rises with each, forgotten when the room
--                         is empty, or after a day
-- {base}:held:{holder}    HASH connection:room -> user, the sessions of one holder
-- {base}:reaped:{holder}  exists for a day after a dead holder's sessions were removed by others

local base, holder, previous = KEYS[1], ARGV[1], ARGV[2]
local batch, grace, most = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local call = redis.call
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local DAY = 86400000

local function key(kind, name) return base .. ':' .. kind .. ':' .. name end

-- Shows a user with a state, or not at all (false). Silent: others know already that the user is here.
local function show(room, user, state, silent)
  local users = key('users', room)
  local before = call('HGET', users, user)
  if before == state then return end
  if state then
    call('HSET', users, user, state)
    if not before then call('ZADD', key('names', room), 0, user) end
  else
    call('HDEL', users, user)
    call('ZREM', key('names', room), user)
  end
  if silent and not before then return end
  call('HSETNX', key('dirty', room), user, before and '=' .. before or '')
  call('ZADD', base .. ':flush', 'NX', now + math.max(call('PTTL', key('quiet', room)), 0), room)
end

local function load(room, user)
  local packed = call('HGET', key('sessions', room), user)
  return packed and cmsgpack.unpack(packed) or {}
end

local function store(room, user, list)
  if #list == 0 then
    call('HDEL', key('sessions', room), user)
  else
    call('HSET', key('sessions', room), user, cmsgpack.pack(list))
  end
end

-- Takes a session out of the list; false if it was not there.
local function take(list, id)
  for i = 1, #list do
    if list[i][1] == id then return table.remove(list, i) end
  end
  return false
end

local function shown(list)
  for i = #list, 1, -1 do
    if list[i][2] ~= '' then return list[i][2] end
  end
  return ''
end

local function put(room, user, conn, state, silent)
  local id = holder .. ':' .. conn
  local list = load(room, user)
  local old = take(list, id)
  if state ~= '' then
    take(list, '')
  elseif old then
    state = old[2] -- this was said before, and its answer was lost
  end
  table.insert(list, { id, state })
  store(room, user, list)
  call('HSET', key('held', holder), conn .. ':' .. room, user)
  call('ZREM', base .. ':grace', user .. ':' .. room)
  show(room, user, shown(list), silent)
end

local function drop(room, user, owner, conn, lost)
  call('HDEL', key('held', owner), conn .. ':' .. room)
  local list = load(room, user)
  local before = shown(list)
  if not take(list, owner .. ':' .. conn) then return end
  local alive = #list > 0 and list[#list][1] ~= ''
  if lost then
    if shown(list) == '' and before ~= '' then table.insert(list, 1, { '', before }) end
    if not alive then call('ZADD', base .. ':grace', now + grace, user .. ':' .. room) end
  elseif not alive then
    list = {}
  end
  store(room, user, list)
  show(room, user, (alive or lost) and shown(list), false)
end

local function reap(dead)
  local held = key('held', dead)
  local some = call('HRANDFIELD', held, 200, 'WITHVALUES')
  for i = 1, #some, 2 do
    local conn, room = some[i]:match('^(%d+):(.*)$')
    drop(room, some[i + 1], dead, conn, false)
  end
  if #some > 0 then call('SET', key('reaped', dead), 1, 'PX', DAY) end
  return call('HLEN', held)
end

local function end_graces()
  local over = call('ZRANGEBYSCORE', base .. ':grace', '-inf', now, 'LIMIT', 0, 500)
  for _, member in ipairs(over) do
    local user, room = member:match('^([^:]*):(.*)$')
    call('ZREM', base .. ':grace', member)
    call('HDEL', key('sessions', room), user)
    show(room, user, false, false)
  end
end

-- Numbers an announcement. By the clock, so that it rises also where Redis forgot the one before.
local function number(room)
  local version = key('version', room)
  local before = tonumber(call('GET', version) or 0)
  local this = math.max(now, before + 1)
  call('SET', version, string.format('%.0f', this), 'PX', DAY)
  return this, before
end

-- The difference between what was announced of a room and what is; nil if there is none.
local function announce(room)
  local dirty, users = key('dirty', room), key('users', room)
  local some
  if call('HLEN', dirty) <= most then
    some = call('HGETALL', dirty)
    call('DEL', dirty)
  else
    some = call('HRANDFIELD', dirty, most, 'WITHVALUES')
    for i = 1, #some, 2 do call('HDEL', dirty, some[i]) end
  end
  local joined, left, updated = {}, {}, {}
  for i = 1, #some, 2 do
    local user, before = some[i], some[i + 1]
    local state = call('HGET', users, user)
    -- Also what is again as it was: somebody may have been given the list meanwhile.
    if not state then
      table.insert(left, user)
    else
      local list = before == '' and joined or updated
      table.insert(list, user)
      table.insert(list, state)
    end
  end
  local changes = #joined + #left + #updated
  if changes > 0 then call('SET', key('quiet', room), 1, 'PX', batch) end
  if call('EXISTS', dirty) == 1 then
    call('ZADD', base .. ':flush', changes > 0 and now + batch or now, room)
  else
    call('ZREM', base .. ':flush', room)
  end
  if changes > 0 then
    local version, before = number(room)
    local here = call('ZCARD', key('names', room))
    if here == 0 then call('DEL', key('version', room)) end -- nobody is left who could be behind
    return { room, version, before, here, joined, left, updated }
  end
end

-- Redis lost everything since the previous holder registered its sessions: nobody else saw them leave.
local forgotten = previous ~= ''
  and call('EXISTS', key('held', previous), key('reaped', previous)) == 0

local remaining = 0
for i = 6, #ARGV, 5 do
  local kind, room, user, conn, state = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  if kind == 'put' then
    put(room, user, conn, state, false)
  elseif kind == 'restore' then
    put(room, user, conn, state, forgotten)
  elseif kind == 'reap' then
    remaining = reap(user)
  else
    drop(room, user, holder, conn, kind == 'lost')
  end
end
end_graces()

local deltas = {}
for _, room in ipairs(call('ZRANGEBYSCORE', base .. ':flush', '-inf', now, 'LIMIT', 0, 16)) do
  local delta = announce(room)
  if delta then table.insert(deltas, delta) end
end

local next = -1
for _, timers in ipairs({ base .. ':flush', base .. ':grace' }) do
  local first = call('ZRANGE', timers, 0, 0, 'WITHSCORES')
  if #first > 0 then
    local wait = math.max(tonumber(first[2]) - now, 0)
    if next < 0 or wait < next then next = wait end
  end
end
return { next, remaining, deltas }
