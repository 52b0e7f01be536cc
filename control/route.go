package control

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// Paths of the API.
const (
	pathStatus  = "/v1/status"
	pathTop     = "/v1/top"
	pathBans    = "/v1/bans"
	pathUnban   = "/v1/unban"
	pathWhy     = "/v1/why"
	pathAllow   = "/v1/allow"
	pathHistory = "/v1/history"
	pathHeld    = "/v1/held"
	pathReload  = "/v1/reload"
	pathEnforce = "/v1/enforce"
	pathSchema  = "/v1/schema"
)

// A route is one request of the API. GET needs a reader, every other method an admin. The schema is generated from this table.
type route struct {
	method, path string
	summary      string
	query        []parameter
	takes        any // the body, or nil
	gives        any // the answer
	do           func(*Server, http.ResponseWriter, *http.Request) (any, error)
}

// A parameter is one of a request's query.
type parameter struct {
	name, kind, text string
	required         bool
}

// yaml is an answer in YAML.
type yaml []byte

var routes = append([]route{
	{
		http.MethodGet, pathStatus, "State of the daemon", nil, nil, Status{},
		func(s *Server, _ http.ResponseWriter, r *http.Request) (any, error) {
			return s.daemon.Status(r.Context())
		},
	},
	{
		http.MethodGet, pathTop, "Current activity",
		[]parameter{{"n", "integer", "number of addresses and users, at most: 1 to 100, default 20", false}}, nil, Top{},
		func(s *Server, _ http.ResponseWriter, r *http.Request) (any, error) {
			n, err := rows(r)
			if err != nil {
				return nil, err
			}
			return s.daemon.Top(r.Context(), n)
		},
	},
	{
		http.MethodGet, pathBans, "Selected bans; by default all, oldest first", picks, nil, []Ban{},
		func(s *Server, _ http.ResponseWriter, r *http.Request) (any, error) {
			p, err := pickOf(r)
			if err != nil {
				return nil, err
			}
			return s.daemon.Bans(r.Context(), &p)
		},
	},
	{
		http.MethodPost, pathBans, "Ban a prefix", nil, BanRequest{}, Ban{},
		func(s *Server, w http.ResponseWriter, r *http.Request) (any, error) {
			req, err := body[BanRequest](s, w, r)
			if err != nil {
				return nil, err
			}
			return s.daemon.Ban(r.Context(), req, by(r))
		},
	},
	{
		http.MethodDelete, pathBans, "End the ban of exactly a prefix", []parameter{thePrefix, theLocal, theReason}, nil, Ban{},
		changesHere(daemon.Unban),
	},
	{
		http.MethodGet, pathWhy, "State of an address",
		[]parameter{{"prefix", "string", "the address, as a prefix: 192.0.2.7/32", true}}, nil, AddressState{},
		func(s *Server, _ http.ResponseWriter, r *http.Request) (any, error) {
			p, err := prefix(r)
			if err != nil {
				return nil, err
			}
			return s.daemon.Why(r.Context(), p.Addr())
		},
	},
	{
		http.MethodPost, pathAllow, "Put a prefix onto the never-ban list", nil, AllowRequest{}, Allowance{},
		func(s *Server, w http.ResponseWriter, r *http.Request) (any, error) {
			req, err := body[AllowRequest](s, w, r)
			if err != nil {
				return nil, err
			}
			return s.daemon.Allow(r.Context(), req, by(r))
		},
	},
	{
		http.MethodDelete, pathAllow, "Remove the allowance of exactly a prefix", []parameter{thePrefix, theLocal, theReason}, nil, NeverBan{},
		changesHere(daemon.Disallow),
	},
	{
		http.MethodGet, pathHeld, "The bans that guards hold", nil, nil, []HeldBan{},
		func(s *Server, _ http.ResponseWriter, r *http.Request) (any, error) {
			return s.daemon.Held(r.Context())
		},
	},
	{
		http.MethodPost, pathHeld, "Release held bans; returns their number", []parameter{orAll}, nil, 0,
		changes(daemon.Release),
	},
	{
		http.MethodDelete, pathHeld, "Discard held bans; returns their number", []parameter{orAll}, nil, 0,
		changes(daemon.Discard),
	},
	{
		http.MethodPost, pathReload, "Read the configuration file again", nil, nil, Reload{},
		func(s *Server, _ http.ResponseWriter, r *http.Request) (any, error) {
			return s.daemon.Reload(r.Context(), by(r))
		},
	},
	{
		http.MethodPost, pathEnforce, "End watching, or withdraw the request to", nil, EnforceRequest{}, Enforcement{},
		func(s *Server, w http.ResponseWriter, r *http.Request) (any, error) {
			req, err := body[EnforceRequest](s, w, r)
			if err != nil {
				return nil, err
			}
			return s.daemon.Enforce(r.Context(), req, by(r))
		},
	},
	{
		http.MethodGet, pathSchema, "This description", nil, nil, yaml{},
		func(*Server, http.ResponseWriter, *http.Request) (any, error) { return yaml(schema), nil },
	},
}, historyRoutes...)

var (
	thePrefix = parameter{"prefix", "string", "192.0.2.7/32, 2001:db8::/64", true}
	theLocal  = parameter{"local", "string", "on this node only, whatever the value", false}
	theReason = parameter{"reason", "string", "why, for the history and the log", false}
	orAll     = parameter{"prefix", "string", "192.0.2.7/32; default: all", false}
)

// by names the operator of a request, for the log.
func by(r *http.Request) string {
	p, ok := r.Context().Value(guestKey{}).(*peer)
	if !ok {
		return "unknown"
	}
	return p.String()
}

// body reads a request's body. Unknown fields are refused: they might change the meaning.
func body[T any](s *Server, w http.ResponseWriter, r *http.Request) (req T, err error) {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	dec.DisallowUnknownFields()
	if err = dec.Decode(&req); err == nil {
		return req, nil
	}
	text := "request: " + strings.TrimPrefix(err.Error(), "json: ")
	if strings.Contains(err.Error(), "unknown field") {
		text = s.unknown(r, strings.TrimPrefix(err.Error(), "json: unknown "))
	}
	return req, &RefusedError{text}
}

// prefix reads the prefix of the query; without one it returns the zero Prefix.
func prefix(r *http.Request) (netip.Prefix, error) {
	if !r.URL.Query().Has("prefix") {
		return netip.Prefix{}, nil
	}
	p, err := netip.ParsePrefix(r.URL.Query().Get("prefix"))
	if err != nil {
		return netip.Prefix{}, &RefusedError{"request: " + err.Error()}
	}
	return p, nil
}

// changes returns the handler of a route that changes the state of a prefix.
func changes[T any](do func(daemon, context.Context, netip.Prefix, string) (T, error)) func(*Server, http.ResponseWriter,
	*http.Request) (any, error) {
	return func(s *Server, _ http.ResponseWriter, r *http.Request) (any, error) {
		p, err := prefix(r)
		if err != nil {
			return nil, err
		}
		return do(s.daemon, r.Context(), p, by(r))
	}
}

// changesHere is changes for a change that is announced to the fleet unless the request has local.
func changesHere[T any](do func(daemon, context.Context, netip.Prefix, Withdrawal, string) (T, error)) func(*Server, http.ResponseWriter,
	*http.Request) (any, error) {
	return func(s *Server, w http.ResponseWriter, r *http.Request) (any, error) {
		return changes(func(d daemon, ctx context.Context, p netip.Prefix, by string) (T, error) {
			q := r.URL.Query()
			return do(d, ctx, p, Withdrawal{Reason: q.Get("reason"), Local: q.Has("local")}, by)
		})(s, w, r)
	}
}

// Numbers of addresses and users in a Top: default and bound.
const (
	usualRows = 20
	maxRows   = 100
)

// rows returns the number of addresses and users that r requests.
func rows(r *http.Request) (int, error) {
	if !r.URL.Query().Has("n") {
		return usualRows, nil
	}
	n, err := strconv.Atoi(r.URL.Query().Get("n"))
	if err != nil || n < 1 || n > maxRows {
		return 0, &RefusedError{fmt.Sprintf("request: n is 1 to %d", maxRows)}
	}
	return n, nil
}
