-- Renews leases. KEYS[1] ZSET holder -> when its lease ends; ARGV: lease ms, then holder and 'new' or 'renew'.
-- A lapsed lease is never renewed: others may be removing that holder's sessions already.
-- Returns the holders that hold a lease now, and those whose lease has lapsed.
local leases, lease = KEYS[1], tonumber(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local alive = {}
for i = 2, #ARGV, 2 do
  local ends = redis.call('ZSCORE', leases, ARGV[i])
  if ARGV[i + 1] == 'new' or (ends and tonumber(ends) > now) then
    redis.call('ZADD', leases, now + lease, ARGV[i])
    table.insert(alive, ARGV[i])
  end
end
return { alive, redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, 16) }
