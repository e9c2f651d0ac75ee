package uplink

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// Card is the network card that a bridge is to stand in front of.
type Card struct {
	Name  string
	Index int
	MAC   string
}

// manager is what is known of one program that configures network cards.
type manager struct {
	name Manager
	// manages reports whether it configures the card, by what runs and by what is written.
	manages func(root fs.FS, card Card) (bool, error)
	// plan says what is to be changed in its files.
	plan func(root fs.FS, card Card, bridge string) ([]Edit, error)
	// apply are the commands that have it take up its changed files, undo those
	// after the files are as before. CARD and BRIDGE stand for the links, PROFILE
	// and OURS for what NetworkManager calls their configurations.
	apply, undo []string
}

// managers are those that are known, each before those that it commands.
var managers = []manager{
	{Netplan, netplanManages, planNetplan, []string{"netplan apply"}, []string{"netplan apply"}},
	{Networkd, networkdManages, planNetworkd, []string{"networkctl reload"},
		// It may have given the card up when the bridge went.
		[]string{"networkctl reload", "networkctl reconfigure CARD"}},
	{NetworkManager, nmManages, planNetworkManager,
		// The bridge brings its port up itself. NetworkManager has made a profile of
		// its own for the bridge that it found, with the same name.
		[]string{"nmcli connection reload", "nmcli connection up uuid OURS"},
		[]string{"nmcli connection reload", "nmcli connection up uuid PROFILE"}},
	{Wicked, wickedManages, planWicked, []string{"wicked ifup BRIDGE"}, []string{"wicked ifup CARD"}},
	{Ifupdown, ifupdownManages, planIfupdown, []string{"ifup --force BRIDGE"}, []string{"ifup --force CARD"}},
}

// Detect finds out who configures the card. The root is the host's own.
func Detect(root fs.FS, card Card) (Manager, error) {
	for _, m := range managers {
		if yes, err := m.manages(root, card); err != nil || yes {
			return m.name, err
		}
	}
	return Viaduct, nil
}

// Plan says what is to be changed in the manager's files so that the bridge is
// in front of the card when the host starts again. It fails, and names what it
// does not understand, rather than guess.
func Plan(name Manager, root fs.FS, card Card, bridge string) ([]Edit, error) {
	for _, m := range managers {
		if m.name != name {
			continue
		}
		edits, err := m.plan(root, card, bridge)
		if err != nil {
			return nil, fmt.Errorf("change the configuration of %s: %w", name, err)
		}
		return edits, nil
	}
	return nil, nil
}

// Commands are what has the manager take up its files, changed or, if undo is
// set, as they were.
func Commands(r Record, undo bool) [][]string {
	var commands [][]string
	for _, m := range managers {
		list := m.apply
		if undo {
			list = m.undo
		}
		if m.name != r.Manager || m.name == Ifupdown && !leased(r.Edits) {
			continue
		}
		for _, c := range list {
			commands = append(commands, strings.Fields(strings.NewReplacer("CARD", r.Uplink.NIC, "BRIDGE", r.Uplink.Bridge,
				"PROFILE", nmProfile(r.Edits), "OURS", derivedUUID(nmProfile(r.Edits), r.Uplink.Bridge)).Replace(c)))
		}
	}
	return commands
}

// maxFile is the largest file of a manager's that is read, in bytes.
const maxFile = 1 << 20

// read reads a file below the root.
func read(root fs.FS, path string) (content string, exists bool, err error) {
	name := strings.TrimPrefix(path, "/")
	info, err := fs.Stat(root, name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err == nil && info.Size() > maxFile {
		err = fmt.Errorf("larger than %d bytes", maxFile)
	}
	var b []byte
	if err == nil {
		b, err = fs.ReadFile(root, name)
	}
	if err != nil {
		return "", false, fmt.Errorf("read %s: %w", path, err)
	}
	return string(b), true, nil
}

func text(s string) *string { return &s }

// made is the edit that makes a file, or replaces the one of its path.
func made(root fs.FS, path, content string, mode uint32) (Edit, error) {
	old, exists, err := read(root, path)
	e := Edit{Path: path, New: text(content), Mode: mode}
	if exists {
		e.Old = text(old)
	}
	return e, err
}

func (c Card) index() string { return strconv.Itoa(c.Index) }

// System is what a change of a manager's files needs of the host.
type System interface {
	// Root is the host's files.
	Root() fs.FS
	// Write replaces a file whole; a missing one gets the mode.
	Write(path, content string, mode uint32) error
	// Remove removes a file. It is no error if there is none.
	Remove(path string) error
	// Run runs a command; its error says what the command said.
	Run(ctx context.Context, argv []string) error
	// Clients finds the DHCP clients that others have started on a link.
	Clients(link string) []Client
	// StopClient ends one, without a word to its server.
	StopClient(Client) error
	// StartClient starts a program and leaves it alone.
	StartClient(argv []string) error
}

// Put carries an edit out, or takes it back. It refuses to overwrite what
// somebody else has written since, unless forced.
func (e Edit) Put(s System, undo, force bool) error {
	if e.Once && undo {
		return s.Remove(e.Path)
	}
	force = force || e.Once
	from, to := e.Old, e.New
	if undo {
		from, to = e.New, e.Old
	}
	content, exists, err := read(s.Root(), e.Path)
	if err != nil {
		return err
	}
	is := func(want *string) bool { return exists == (want != nil) && (want == nil || *want == content) }
	switch {
	case is(to):
		return nil
	case !is(from) && !force:
		return fmt.Errorf("%s was changed meanwhile by somebody else", e.Path)
	case to == nil:
		return s.Remove(e.Path)
	}
	return s.Write(e.Path, *to, e.Mode)
}

// Changed reports whether somebody else has changed the file since.
func (e Edit) Changed(s System) (bool, error) {
	if e.Once {
		return false, nil
	}
	content, exists, err := read(s.Root(), e.Path)
	return exists != (e.New != nil) || exists && content != *e.New, err
}

// Settled reports whether the manager is done with the link.
func Settled(name Manager, root fs.FS, link Card) (bool, error) {
	if name != Networkd && name != Netplan {
		return true, nil
	}
	state, err := networkdState(root, link)
	return value(state, "", "ADMIN_STATE") == "configured", err
}
