package fleet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Patience with Redis.
const (
	dialTimeout = 2 * time.Second
	answerTime  = 3 * time.Second // without what a command is told to wait
	blockTime   = 2 * time.Second
)

// The bounds of what is kept in Redis.
const (
	maxLog    = 4_096     // entries of the log; each has up to batchSize statements
	maxPlaces = 1_000_000 // prefixes of each kind
	maxNodes  = 10_000
	seenFor   = 30 * time.Second // a node that was heard within this time is there
	nodeGone  = 24 * time.Hour   // it is forgotten
	forgetBan = 30 * 24 * time.Hour
)

// quiet keeps the client library from writing to standard error: what it has to say is in the errors that it returns.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

func init() { redis.SetLogger(quiet{}) }

func newClient(o *Options) redis.UniversalClient {
	return redis.NewUniversalClient(&redis.UniversalOptions{
		Addrs: o.Addrs, DB: o.DB, Username: o.Username, Password: o.Password, TLSConfig: o.TLS,
		MasterName: o.Sentinel, IsClusterMode: o.Cluster,
		Protocol: 2, DisableIdentity: true, MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		DialTimeout: dialTimeout, ReadTimeout: answerTime, WriteTimeout: answerTime, ContextTimeoutEnabled: true,
		MaxRetries: -1, DialerRetries: 1, PoolSize: 4, // trying again is our own: with growing pauses
	})
}

// keys are where a fleet is in Redis. The braces keep them on one node of a cluster.
type keys struct{ meta, log, ends, said, bans, allows, known, nodes, seen string }

func keysOf(name string) keys {
	k := func(what string) string { return "{fsban:" + name + "}:" + what }
	return keys{k("meta"), k("log"), k("ends"), k("said"), k("bans"), k("allows"), k("known"), k("nodes"), k("seen")}
}

func (k *keys) of(kind string) string {
	switch kind {
	case kindBan:
		return k.bans
	case kindAllow:
		return k.allows
	}
	return k.known
}

// begin is what both scripts begin with: Redis' time, and the epoch. Where there is none Redis is empty, and a new one begins.
const begin = `
local t = redis.call('TIME')
local us = t[1] * 1000000 + t[2]
local function renew()
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'seq', 0)
  return ARGV[1]
end
local epoch = redis.call('HGET', KEYS[1], 'epoch') or renew()
`

// say takes statements, four arguments each: kind, prefix, text, and when it may be forgotten (0: never). Of two about one
// prefix the newer holds; what is not newer is passed over. No stamp is later than Redis' clock; where that was set back, not
// later than the newest that it has taken. What is taken goes into the log as one entry. A batch that was
// taken already, and that the node says once more because it did not hear so, is known by its number.
var say = redis.NewScript(begin + `
local hash = {b = KEYS[5], a = KEYS[6], g = KEYS[7]}
local top = tonumber(redis.call('HGET', KEYS[1], 'top') or 0)
local limit = math.max(us, top + 1)
local mark = ARGV[3] .. ' ' .. ARGV[4]
local again = redis.call('HGET', KEYS[4], ARGV[2]) == mark
local out, taken, full = {}, {}, 0
for i = 7, #ARGV, 4 do
  local kind, field, text, ends = ARGV[i], ARGV[i+1], ARGV[i+2], tonumber(ARGV[i+3])
  local key = hash[kind]
  if not key then
    if not again then out[#out+1] = kind .. ' ' .. field .. ' ' .. text end
  else
    local stamp = tonumber(string.sub(text, 1, 16), 16)
    if stamp > limit then
      stamp = limit
      text = string.format('%016x', stamp) .. string.sub(text, 17)
    end
    local old = redis.call('HGET', key, field)
    local before = old and tonumber(string.sub(old, 1, 16), 16) or 0
    if before >= stamp and before <= limit then
      -- known already
    elseif not old and redis.call('HLEN', key) >= tonumber(ARGV[6]) then
      full = full + 1
    else
      taken[#taken+1] = {key, field, text, ends, kind .. ' ' .. field}
      top = math.max(top, stamp)
      out[#out+1] = kind .. ' ' .. field .. ' ' .. text
    end
  end
end
if #out > 0 then -- first the log: what it does not take is to be said once more
  local function add()
    local seq = redis.call('HINCRBY', KEYS[1], 'seq', 1)
    return redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', ARGV[5], seq .. '-0', 'n', ARGV[2], 'i', ARGV[3], 'c', ARGV[4], 'd', table.concat(out, '\n'))
  end
  local added = add()
  if type(added) == 'table' and added.err and string.find(added.err, 'equal or smaller') then -- somebody else has written to it
    epoch = renew()
    added = add()
  end
  if type(added) == 'table' and added.err then return added end
  for _, s in ipairs(taken) do
    redis.call('HSET', s[1], s[2], s[3])
    if s[4] > 0 then redis.call('ZADD', KEYS[3], 'GT', s[4], s[5]) else redis.call('ZREM', KEYS[3], s[5]) end
  end
  redis.call('HSET', KEYS[1], 'top', string.format('%.0f', top))
  if ARGV[4] ~= '0' then redis.call('HSET', KEYS[4], ARGV[2], mark) end
end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', t[1], 'LIMIT', 0, 64)) do
  local key = hash[string.sub(member, 1, 1)]
  if key then redis.call('HDEL', key, string.sub(member, 3)) end
  redis.call('ZREM', KEYS[3], member)
end
return {epoch, redis.call('HGET', KEYS[1], 'seq'), us, full}
`)

// beat says that a node is there, and forgets those that are long gone. A log that somebody else has written to is begun anew.
var beat = redis.NewScript(begin + `
local after = string.format('%.0f', (redis.call('HGET', KEYS[1], 'seq') or 0) + 1)
if #redis.call('XRANGE', KEYS[2], after, '+', 'COUNT', 1) > 0 then epoch = renew() end
local before = redis.call('HGET', KEYS[3], ARGV[2])
if before or redis.call('HLEN', KEYS[3]) < tonumber(ARGV[4]) then
  redis.call('HSET', KEYS[3], ARGV[2], ARGV[3])
  redis.call('ZADD', KEYS[4], t[1], ARGV[2])
end
for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', t[1] - ARGV[5], 'LIMIT', 0, 64)) do
  redis.call('HDEL', KEYS[3], node)
  redis.call('HDEL', KEYS[5], node)
  redis.call('ZREM', KEYS[4], node)
end
return {epoch, redis.call('HGET', KEYS[1], 'seq'), us, redis.call('ZCOUNT', KEYS[4], t[1] - ARGV[6], '+inf'), before}
`)

// A reply is what Redis says to a script, or to look.
type reply struct {
	epoch  string
	seq    uint64
	full   int
	nodes  int
	before string // what stood in the place of our own last beat
	last   string // the sum of the log's entry at our place; empty: it is not there
}

// run runs a script and notes what it tells of the clock.
func (f *Fleet) run(ctx context.Context, script *redis.Script, keys []string, args ...any) (r reply, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	asked := time.Now()
	list, err := script.Run(ctx, f.out, keys, args...).Slice()
	if err != nil {
		return r, err
	}
	if len(list) < 4 {
		return r, fmt.Errorf("redis answers %d values", len(list))
	}
	r.epoch, _ = list[0].(string)
	if text, ok := list[1].(string); ok {
		r.seq, _ = strconv.ParseUint(text, 10, 64)
	}
	if us, ok := list[2].(int64); ok {
		f.clock.heard(time.UnixMicro(us), asked, time.Now())
	}
	if n, ok := list[3].(int64); ok {
		r.full, r.nodes = int(n), int(n)
	}
	if len(list) > 4 {
		r.before, _ = list[4].(string)
	}
	return r, nil
}

// look asks without writing: where the log stands, and whether it still has what we read last.
func (f *Fleet) look(ctx context.Context, at uint64) (r reply, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	asked := time.Now()
	now, err := f.in.Time(ctx).Result()
	if err != nil {
		return r, err
	}
	f.clock.heard(now, asked, time.Now())
	meta, err := f.in.HMGet(ctx, f.keys.meta, "epoch", "seq").Result()
	if err != nil {
		return r, err
	}
	r.epoch, _ = meta[0].(string)
	if text, ok := meta[1].(string); ok {
		r.seq, _ = strconv.ParseUint(text, 10, 64)
	}
	if at == 0 {
		return r, nil
	}
	id := strconv.FormatUint(at, 10) + "-0"
	entries, err := f.in.XRange(ctx, f.keys.log, id, id).Result()
	if err != nil {
		return r, err
	}
	if len(entries) == 1 {
		r.last = sum(&entries[0])
	}
	return r, nil
}

// explain says for people what an error of Redis' means for them.
func explain(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	var timeout net.Error
	switch {
	case redis.IsPermissionError(err) || strings.Contains(text, "NOPERM"), strings.Contains(text, "user executing the script can't"):
		return fmt.Errorf("the login to Redis may not do what a fleet needs (docs/fleet.md has the ACL): %w", err)
	case redis.IsAuthError(err) || strings.Contains(text, "WRONGPASS") || strings.Contains(text, "NOAUTH"):
		return fmt.Errorf("the login to Redis is refused (fleet.username, fleet.password_file): %w", err)
	case redis.IsOOMError(err):
		return fmt.Errorf("the fleet's Redis is out of memory (maxmemory): nothing can be said until it has room: %w", err)
	case redis.IsReadOnlyError(err):
		return fmt.Errorf("this Redis is a replica, which takes nothing (fleet.redis, fleet.sentinel): %w", err)
	case redis.IsLoadingError(err):
		return fmt.Errorf("the fleet's Redis is starting: %w", err)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("the fleet's Redis does not answer in time: %w", err)
	}
	return fmt.Errorf("the fleet's Redis: %w", err)
}
