-- ARGV: members. Answers with the time of each, nothing for what is not known.
local answer = {}
local whole = is(used, 'zset')
for i = 1, #ARGV do
  answer[i] = whole and redis.call('ZSCORE', used, ARGV[i])
end
return answer
