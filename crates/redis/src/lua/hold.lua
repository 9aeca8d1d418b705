-- KEYS[2]: a hash of leases. ARGV: a name, a holder, now, until.
local leases, name, holder, now = KEYS[2], ARGV[1], ARGV[2], tonumber(ARGV[3])
own(leases, 'hash')
-- As in a fill.
redis.call('HDEL', leases, '')
-- When the lease ends, and who has it; nothing for what cannot be a lease.
local function lease(field)
  if redis.call('HSTRLEN', leases, field) > 1100 then return nil end
  return string.match(redis.call('HGET', leases, field) or '', '^(%-?%d+) (.*)$')
end
local till, other = lease(name)
if till and tonumber(till) > now and other ~= holder then return 0 end
if redis.call('HLEN', leases) > 1000 then
  for _, field in ipairs(redis.call('HKEYS', leases)) do
    local ends = lease(field)
    if not ends or tonumber(ends) <= now then redis.call('HDEL', leases, field) end
  end
end
redis.call('HSET', leases, name, ARGV[4] .. ' ' .. holder)
return 1
