-- Members of a room in the order of their names. KEYS[1] base, ARGV: room, after or '', limit.
-- Returns how many there are in all, name and state of each, and the version last announced of the room.
local names, users = KEYS[1] .. ':names:' .. ARGV[1], KEYS[1] .. ':users:' .. ARGV[1]
local from = ARGV[2] == '' and '-' or '(' .. ARGV[2]
local members = {}
for _, user in ipairs(redis.call('ZRANGEBYLEX', names, from, '+', 'LIMIT', 0, ARGV[3])) do
  table.insert(members, user)
  table.insert(members, redis.call('HGET', users, user) or '')
end
local version = tonumber(redis.call('GET', KEYS[1] .. ':version:' .. ARGV[1]) or 0)
return { redis.call('ZCARD', names), members, version }
