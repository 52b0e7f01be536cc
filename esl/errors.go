package esl

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
)

// A Reason is why a connection failed or ended: a closed, small set, safe as a metric label.
type Reason string

// Refused reasons are permanent until a setting is changed; the others are temporary.
const (
	ReasonPassword     Reason = "password"     // refused: the password (or the user) is wrong
	ReasonAddress      Reason = "address"      // refused: the event socket's ACL
	ReasonPermission   Reason = "permission"   // refused: this login may not receive the required events
	ReasonUnreachable  Reason = "unreachable"  // no listener, no route, no answer to the dial
	ReasonSilent       Reason = "silent"       // the peer is connected, but sends nothing
	ReasonProtocol     Reason = "protocol"     // received bytes are not the event socket protocol
	ReasonDisconnected Reason = "disconnected" // FreeSWITCH announced the end, or the stream ended
)

// Reasons lists all reasons.
var Reasons = []Reason{ReasonPassword, ReasonAddress, ReasonPermission, ReasonUnreachable, ReasonSilent, ReasonProtocol, ReasonDisconnected}

// Permanent reports whether retrying soon is pointless.
func (r Reason) Permanent() bool {
	return r == ReasonPassword || r == ReasonAddress || r == ReasonPermission
}

// An Error is a failed or ended connection. Its text names the setting to change.
type Error struct {
	Addr   string
	Reason Reason
	Detail string // for ReasonPermission the refused event, for ReasonDisconnected FreeSWITCH's notice
	Err    error  // the cause, or nil
}

func (e *Error) Error() string {
	switch e.Reason {
	case ReasonPassword:
		return fmt.Sprintf("event socket %s refused the password (freeswitch.user, freeswitch.password)", e.Addr)
	case ReasonAddress:
		return fmt.Sprintf("event socket %s denied this address (apply-inbound-acl in event_socket.conf.xml)", e.Addr)
	case ReasonPermission:
		return fmt.Sprintf("event socket %s does not allow this login to see %s (esl-allowed-events in the directory)", e.Addr, e.Detail)
	case ReasonUnreachable:
		return fmt.Sprintf("connect to event socket %s: %v", e.Addr, e.Err)
	case ReasonSilent:
		return fmt.Sprintf("event socket %s is silent: %s", e.Addr, e.Detail)
	case ReasonProtocol:
		return fmt.Sprintf("event socket %s: %v", e.Addr, e.Err)
	}
	if e.Detail != "" {
		return fmt.Sprintf("event socket %s closed the connection: %s", e.Addr, e.Detail)
	}
	return fmt.Sprintf("event socket %s closed the connection: %v", e.Addr, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// errSilent is the error of a read if the peer did not answer in time.
var errSilent = errors.New("no answer")

// dialError classifies the error of connecting to addr.
func dialError(addr string, err error) *Error {
	err = cause(err)
	if errors.Is(err, context.DeadlineExceeded) {
		err = errors.New("timed out")
	}
	return &Error{Addr: addr, Reason: ReasonUnreachable, Err: err}
}

// cause removes the operation and the address that package net adds to an error: Error prints them itself.
func cause(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		err = errno
	}
	return err
}

// readError classifies the error that ended reading.
func readError(addr string, err error, goodbye string) *Error {
	switch {
	case errors.Is(err, errSilent):
		return &Error{Addr: addr, Reason: ReasonSilent, Detail: err.Error(), Err: err}
	case errors.Is(err, ErrProtocol), errors.Is(err, errLineBreak):
		return &Error{Addr: addr, Reason: ReasonProtocol, Err: err}
	}
	return &Error{Addr: addr, Reason: ReasonDisconnected, Detail: goodbye, Err: cause(err)}
}
