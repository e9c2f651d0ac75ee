package store

import "fmt"

// FileError is a file that could not be used. Others are not affected.
type FileError struct {
	// Path is the file.
	Path string
	// Name is the network that the file is about; "" if it is about none.
	Name string
	Err  error
}

func (e *FileError) Error() string { return fmt.Sprintf("load %s: %v", e.Path, e.Err) }

// Unwrap returns the cause.
func (e *FileError) Unwrap() error { return e.Err }

// FormatError is a file whose format is newer than this program knows.
type FormatError struct {
	Path string
	// Version is the file's, Known the newest that is understood.
	Version, Known int
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("%s has format version %d, this version of viaduct knows versions up to %d", e.Path, e.Version, e.Known)
}

// LockedError says that another engine runs on the same run folder.
type LockedError struct {
	Path string
	// PID is the other engine's process, 0 if it has not said yet.
	PID int
}

func (e *LockedError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("lock %s: held by another viaduct engine", e.Path)
	}
	return fmt.Sprintf("lock %s: held by the viaduct engine with pid %d", e.Path, e.PID)
}
