-- KEYS[2]: a hash of leases. ARGV: a name, a holder.
local leases, name, holder = KEYS[2], ARGV[1], ARGV[2]
if is(leases, 'hash') and redis.call('HSTRLEN', leases, name) <= 1100 then
  local other = string.match(redis.call('HGET', leases, name) or '', '^%-?%d+ (.*)$')
  if other == holder then redis.call('HDEL', leases, name) end
end
return 1
