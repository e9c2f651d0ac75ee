// Package polkit asks the host's polkit whether a process may do something.
package polkit

import (
	"context"
	"slices"

	"github.com/godbus/dbus/v5"

	"viaduct/internal/netdef"
)

// Subject is the process that wants to do something.
type Subject struct {
	PID     uint32
	Started uint64 // in clock ticks since the host's start
	UID     uint32
}

// Authority is the host's polkit. Each question has a connection of its own to
// the system's bus: they are rare, and so nothing has to notice that the bus
// was restarted.
type Authority struct{}

const (
	busName    = "org.freedesktop.PolicyKit1"
	objectPath = "/org/freedesktop/PolicyKit1/Authority"
	method     = busName + ".Authority.CheckAuthorization"
	bus        = "org.freedesktop.DBus"
)

// Available reports whether polkit runs, or would if it were asked.
func (Authority) Available(ctx context.Context) bool {
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return false
	}
	defer conn.Close()
	for _, list := range []string{".ListNames", ".ListActivatableNames"} {
		var names []string
		if err := conn.BusObject().CallWithContext(ctx, bus+list, 0).Store(&names); err == nil && slices.Contains(names, busName) {
			return true
		}
	}
	return false
}

// interaction lets polkit ask the user for a password.
const interaction = 1

// subject is polkit's form of a Subject.
type subject struct {
	Kind    string
	Details map[string]dbus.Variant
}

// answer is polkit's. A challenge means that it would have to ask the user.
type answer struct {
	Authorized, Challenge bool
	Details               map[string]string
}

// Check returns nil if the subject may carry out the action, else an error in
// libvirt's words.
func (Authority) Check(ctx context.Context, who Subject, action string, details map[string]string, interactive bool) error {
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return netdef.Errorf(netdef.ErrAuthFailed, "connect to the system's bus: %w", err)
	}
	defer conn.Close()
	if details == nil {
		details = map[string]string{}
	}
	flags := uint32(0)
	if interactive {
		flags = interaction
	}
	process := subject{"unix-process", map[string]dbus.Variant{
		"pid": dbus.MakeVariant(who.PID), "start-time": dbus.MakeVariant(who.Started), "uid": dbus.MakeVariant(int32(who.UID)),
	}}
	var a answer
	call := conn.Object(busName, objectPath).CallWithContext(ctx, method, 0, process, action, details, flags, "")
	switch err := call.Store(&a); {
	case err != nil:
		return netdef.Errorf(netdef.ErrAuthFailed, "ask polkit: %w", err)
	case a.Authorized:
		return nil
	case a.Details["polkit.dismissed"] != "":
		return netdef.Errorf(netdef.ErrAuthCancelled, "user cancelled authentication process")
	case a.Challenge:
		return netdef.Errorf(netdef.ErrAuthUnavailable, "no polkit agent available to authenticate action '%s'", action)
	}
	return netdef.Errorf(netdef.ErrAuthFailed, "access denied by policy")
}
