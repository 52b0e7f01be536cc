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

// Refused reasons are permanent until somebody changes a setting; the others pass.
const (
	ReasonPassword     Reason = "password"     // refused: the password (or the user) is wrong
	ReasonAddress      Reason = "address"      // refused: the event socket's ACL
	ReasonPermission   Reason = "permission"   // refused: this login may not see the events that are needed
	ReasonUnreachable  Reason = "unreachable"  // nobody listens, no route, no answer to the dial
	ReasonSilent       Reason = "silent"       // the peer is there and says nothing
	ReasonProtocol     Reason = "protocol"     // what arrives is not the event socket protocol
	ReasonDisconnected Reason = "disconnected" // FreeSWITCH said goodbye, or the stream ended
)

// Reasons lists all of them.
var Reasons = []Reason{ReasonPassword, ReasonAddress, ReasonPermission, ReasonUnreachable, ReasonSilent, ReasonProtocol, ReasonDisconnected}

// Permanent tells whether trying again soon is pointless.
func (r Reason) Permanent() bool {
	return r == ReasonPassword || r == ReasonAddress || r == ReasonPermission
}

// An Error is a failed or ended connection, in words that name what to change.
type Error struct {
	Addr   string
	Reason Reason
	Detail string // for ReasonPermission the event that was refused, for ReasonDisconnected what FreeSWITCH said
	Err    error  // the cause, if there is one
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

// errSilent is what a read returns when a peer did not answer in time.
var errSilent = errors.New("no answer")

// dialError says why addr could not be reached.
func dialError(addr string, err error) *Error {
	err = cause(err)
	if errors.Is(err, context.DeadlineExceeded) {
		err = errors.New("timed out")
	}
	return &Error{Addr: addr, Reason: ReasonUnreachable, Err: err}
}

// cause takes off what package net puts around an error: the operation and the address, which Error prints anyway.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		err = errno
	}
	return err
}

// readError classifies what ended a session's reading.
func readError(addr string, err error, goodbye string) *Error {
	switch {
	case errors.Is(err, errSilent):
		return &Error{Addr: addr, Reason: ReasonSilent, Detail: err.Error(), Err: err}
	case errors.Is(err, ErrProtocol), errors.Is(err, errLineBreak):
		return &Error{Addr: addr, Reason: ReasonProtocol, Err: err}
	}
	return &Error{Addr: addr, Reason: ReasonDisconnected, Detail: goodbye, Err: cause(err)}
}
