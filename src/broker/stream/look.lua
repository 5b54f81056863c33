-- What there is to know of a stream and its group, as texts; an empty one is what this Redis doesn't
-- say, or what isn't there.
--
-- KEYS: the stream, the cursor (where there may be one). ARGV: group.
-- Answers: type, length, last id, first id, entries ever added; whether the group is there (1), its
--   last delivered id, pending, lag, entries read; the cursor.
local stream = KEYS[1]
local kind = redis.call('TYPE', stream).ok
local answer = { kind, '', '', '', '', '', '', '', '', '', '' }
local function table_of(list)
  local about = {}
  for i = 1, #list, 2 do about[list[i]] = list[i + 1] end
  return about
end
local function text(found)
  return found and tostring(found) or ''
end
-- A number as Lua writes it turns into 1e+15 when it is large.
local function number(found)
  return found and string.format('%.0f', found) or ''
end
if kind == 'stream' then
  local about = table_of(redis.call('XINFO', 'STREAM', stream))
  local first = about['first-entry']
  answer[2] = number(about.length)
  answer[3] = text(about['last-generated-id'])
  answer[4] = first and first[1] or ''
  answer[5] = number(about['entries-added'])
  for _, found in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local group = table_of(found)
    if group.name == ARGV[1] then
      answer[6] = '1'
      answer[7] = text(group['last-delivered-id'])
      answer[8] = number(group.pending)
      answer[9] = number(group.lag)
      answer[10] = number(group['entries-read'])
    end
  end
end
if KEYS[2] then
  local cursor = redis.pcall('GET', KEYS[2])
  answer[11] = type(cursor) == 'string' and cursor or ''
end
return answer
