-- The versions last announced of rooms. KEYS[1] base; ARGV: rooms. Returns a number for each, 0 if forgotten.
local versions = {}
for i = 1, #ARGV do
  versions[i] = tonumber(redis.call('GET', KEYS[1] .. ':version:' .. ARGV[i]) or 0)
end
return versions
