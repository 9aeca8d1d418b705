-- ARGV: a prefix of members, a time and a member to begin behind, how many were passed behind those already, how many
-- are wanted, how many to look at. Answers with how many were looked at, whether those were the last, members and times.
-- Members of the same time as the one to begin behind may come again.
local prefix, time, member = ARGV[1], ARGV[2], ARGV[3]
local skip, wanted, looks = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
if not is(used, 'zset') then return { 0, 1 } end
local rank = 0
if member ~= '' then
  local there = redis.call('ZSCORE', used, member)
  if there and tonumber(there) == tonumber(time) then
    rank = redis.call('ZRANK', used, member) + 1
  else
    rank = redis.call('ZCOUNT', used, '-inf', '(' .. time)
  end
end
rank = rank + skip
local answer = { 0, 0 }
local seen = 0
while seen < looks and #answer < 2 + 2 * wanted do
  local page = redis.call('ZRANGE', used, rank + seen, rank + seen + 99, 'WITHSCORES')
  if #page == 0 then
    answer[2] = 1
    break
  end
  for i = 1, #page, 2 do
    if string.sub(page[i], 1, #prefix) == prefix then
      answer[#answer + 1] = page[i]
      answer[#answer + 1] = page[i + 1]
    end
  end
  seen = seen + #page / 2
end
answer[1] = seen
return answer
