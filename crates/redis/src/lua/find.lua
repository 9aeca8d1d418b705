-- KEYS[2..]: hashes. ARGV: limits on a value, on the fields of a key, on a key, on the whole answer; then each key's member.
-- Answers with completeness, then the fields and values of each key. Nothing large is loaded: somebody may have planted it.
local value_max, fields_max = tonumber(ARGV[1]), tonumber(ARGV[2])
local key_max, left = tonumber(ARGV[3]), tonumber(ARGV[4])
local whole = is(used, 'zset')
local complete = whole and redis.call('ZSCORE', used, mark()) and true
local lost = false
local answer = { 0 }
for i = 2, #KEYS do
  local fields = {}
  if is(KEYS[i], 'hash') then
    local few = redis.call('HLEN', KEYS[i]) <= fields_max
    local size = few and redis.call('MEMORY', 'USAGE', KEYS[i], 'SAMPLES', 0)
    if few and size <= key_max and size <= left then
      left = left - size
      fields = redis.call('HGETALL', KEYS[i])
      for j = 2, #fields, 2 do
        if #fields[j] > value_max then fields[j] = '' end
      end
    else
      complete = false
    end
  elseif whole and redis.call('ZSCORE', used, ARGV[i + 3]) then
    lost = true
  end
  answer[i] = fields
end
if lost then disturb() end
if complete and not lost then answer[1] = 1 end
return answer
