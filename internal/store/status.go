package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"viaduct/internal/netdef"
)

// statusFormat is the version of status files.
const statusFormat = 1

// maxStatus is the largest status file that is read, in bytes: two definitions,
// escaped.
const maxStatus = 4 * maxDefinition

// Status is what must be known of an active network after a restart of the
// daemon. It ends when the network stops or the host goes down.
type Status struct {
	// Format and BootID are filled in by PutStatus.
	Format int    `json:"format"`
	BootID string `json:"bootId"`

	UUID netdef.UUID `json:"uuid"`
	Name string      `json:"name"`
	// Live is the XML of the network as it runs; "" for a network that is stopped
	// and only remembers its ports, or that was about to start.
	Live string `json:"live"`
	// Next is the XML of a change that is being applied; "" if there is none.
	Next string `json:"next,omitempty"`
	// Taking says that the bridge of Next is another program's, and is being taken over.
	Taking bool `json:"taking,omitempty"`
	// Persistent is whether the network has a definition, and so stays when it stops.
	Persistent bool `json:"persistent"`
	// DNSPort is where its DNS is served; 0 for the usual one.
	DNSPort uint16 `json:"dnsPort,omitempty"`
	// Translated is whether guests' connections may have the host's address.
	Translated bool `json:"translated,omitempty"`
	// Ports are the links in the network's bridge, to be plugged in again if
	// the bridge has to be made anew.
	Ports []StatusPort `json:"ports,omitempty"`
}

// StatusPort is a port and its link, whose name is "" if there is none yet. The
// index tells it from a new one that got its name.
type StatusPort struct {
	Name  string     `json:"name"`
	Index int        `json:"index"`
	MAC   netdef.MAC `json:"mac"`
	// Plugged is whether Viaduct put it there, and not somebody else.
	Plugged bool `json:"plugged,omitempty"`
	// UUID identifies the port to clients.
	UUID netdef.UUID `json:"uuid,omitzero"`
	// Def is the XML of a port that somebody asked for; "" for a link that
	// another program put into the bridge without telling.
	Def string `json:"def,omitempty"`
	// Guard says which frames the guest may send; nil for any.
	Guard *netdef.Guard `json:"guard,omitempty"`
	// MTU in bytes is that of a plugged link; 0 for the network's.
	MTU int `json:"mtu,omitempty"`
	// Routed says what is behind the link of a port that is routed.
	Routed *netdef.Routed `json:"routed,omitempty"`
	// Pattern is the port that this one was made of, and follows; zero for none.
	Pattern netdef.UUID `json:"pattern,omitzero"`
	// RateKey is where another program's store says what the port is limited to,
	// and Rate what it said when that was last made its limits; "" for nowhere.
	RateKey string `json:"rateKey,omitempty"`
	Rate    string `json:"rate,omitempty"`
	// Tap is set if Viaduct made the link, and makes it again if it is gone.
	Tap *StatusTap `json:"tap,omitempty"`
}

// StatusTap says how a tap is made.
type StatusTap struct {
	Owner uint32     `json:"owner"` // uid
	Guest netdef.MAC `json:"guest"` // the address that the guest has
}

func (s *Store) statusPath(name string) string {
	return filepath.Join(s.paths.status, name+".json")
}

// PutStatus writes the status of the network called st.Name.
func (s *Store) PutStatus(st Status) error {
	if err := CheckName(st.Name); err != nil {
		return err
	}
	st.Format, st.BootID = statusFormat, s.bootID
	if err := s.putRunFile(statusFile, s.statusPath(st.Name), st); err != nil {
		return fmt.Errorf("write status of %s: %w", st.Name, err)
	}
	s.watch.publish(KindStatus, st.Name)
	return nil
}

// DeleteStatus removes a network's status. It is no error if there is none.
func (s *Store) DeleteStatus(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	err := s.fault.remove(statusFile, s.statusPath(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete status of %s: %w", name, err)
	}
	s.watch.publish(KindStatus, name)
	return nil
}

// Statuses reads the status of all active networks, sorted by name. Files that
// cannot be used are reported beside those that can; one of a newer format as
// a *FormatError.
func (s *Store) Statuses() ([]Status, []*FileError) {
	names, err := namedFiles(s.paths.status, ".json")
	if err != nil {
		return nil, []*FileError{{Path: s.paths.status, Err: err}}
	}
	var statuses []Status
	var errs []*FileError
	for _, name := range names {
		path := s.statusPath(name)
		st, err := readStatus(name, path)
		if err != nil {
			errs = append(errs, &FileError{Path: path, Name: name, Err: err})
			continue
		}
		statuses = append(statuses, st)
	}
	return statuses, errs
}

func readStatus(name, path string) (Status, error) {
	b, err := readFile(path, maxStatus)
	if err != nil {
		return Status{}, err
	}
	st, err := decodeStatus(path, b)
	if err != nil {
		return Status{}, err
	}
	if st.Name != name {
		return Status{}, fmt.Errorf("it is the status of network '%s'", st.Name)
	}
	return st, nil
}

func decodeStatus(path string, b []byte) (Status, error) {
	var st Status
	if err := decodeVersioned(path, b, statusFormat, &st); err != nil {
		return Status{}, err
	}
	return st, CheckName(st.Name)
}

// dropOldStatuses removes what was true before the host went down, where the
// run folder did not go with it.
func (s *Store) dropOldStatuses() error {
	statuses, _ := s.Statuses() // who starts the networks reads them again, with the errors
	for _, st := range statuses {
		if st.BootID == s.bootID {
			continue
		}
		s.log.Info("dropped a status from before the host went down", "network", st.Name)
		if err := s.DeleteStatus(st.Name); err != nil {
			return err
		}
	}
	return nil
}

// putRunFile replaces a file of the run folder.
func (s *Store) putRunFile(kind, path string, value any) error {
	b, err := json.Marshal(value)
	if err != nil {
		return err
	}
	tmp, err := s.fault.stage(kind, filepath.Dir(path), append(b, '\n'), false)
	if err != nil {
		return err
	}
	return s.fault.rename(kind, tmp, path)
}

// decodeVersioned reads JSON whose member "format" says its version. The
// version is looked at first: what else a newer one holds cannot be known.
func decodeVersioned(path string, b []byte, known int, into any) error {
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return err
	}
	switch {
	case head.Format > known:
		return &FormatError{Path: path, Version: head.Format, Known: known}
	case head.Format < 1:
		return errors.New("it has no format version")
	}
	return json.Unmarshal(b, into)
}
