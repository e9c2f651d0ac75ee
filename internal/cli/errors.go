package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"viaduct/internal/httpapi"
	"viaduct/internal/netdef"
)

// failure is an error in virsh's two lines: what could not be done, and why.
type failure struct {
	what string
	why  error
}

func (f *failure) Error() string { return f.what + ": " + f.why.Error() }
func (f *failure) Unwrap() error { return f.why }

// failing says what could not be done, if err is an error.
func failing(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &failure{fmt.Sprintf(format, args...), err}
}

// errSilent makes the exit status tell of an error of which all is said.
var errSilent = errors.New("failed")

// hint is an error with advice on what to do about it.
type hint struct {
	error
	advice string
}

func (h *hint) Unwrap() error { return h.error }

// report prints an error as virsh does, the reason on a line of its own. What
// virsh does not know comes after that: the place in the input, and advice.
func (a *app) report(err error) {
	if errors.Is(err, errSilent) {
		return
	}
	if a.output == formatJSON {
		a.reportJSON(err)
		return
	}
	lines := []string{}
	var unreachable *httpapi.UnreachableError
	var failed *failure
	switch {
	case errors.As(err, &unreachable):
		lines = append(lines, "failed to connect to the viaduct daemon", unreachable.Error(), unreachableAdvice(unreachable))
	case errors.As(err, &failed):
		lines = append(lines, failed.what, failed.why.Error())
	default:
		lines = append(lines, err.Error())
	}
	var known *netdef.Error
	if errors.As(err, &known) && known.Where != "" {
		lines = append(lines, "at "+known.Where)
	}
	var advised *hint
	if errors.As(err, &advised) {
		lines = append(lines, advised.advice)
	}
	for _, line := range lines {
		fmt.Fprintf(a.errs, "error: %s\n", printable(line, true))
	}
}

// unreachableAdvice says what to do if there is no daemon, or no way to it.
func unreachableAdvice(e *httpapi.UnreachableError) string {
	if errors.Is(e, fs.ErrPermission) {
		return "only root and members of the socket's group may connect; see ls -l " + e.Socket
	}
	return "start the daemon with 'systemctl start viaduct' or 'viaduct daemon', or name its socket with --socket"
}

func (a *app) reportJSON(err error) {
	travelling := struct {
		Doing string `json:"doing,omitempty"`
		httpapi.Error
	}{Error: httpapi.ErrorOf(err)}
	var failed *failure
	var known *netdef.Error
	switch {
	case errors.As(err, &known):
	case errors.As(err, &failed):
		travelling.Message = failed.why.Error()
	default:
		travelling.Message = err.Error()
	}
	if failed != nil || errors.As(err, &failed) {
		travelling.Doing = failed.what
	}
	json.NewEncoder(a.errs).Encode(map[string]any{"error": travelling})
}

// openError is an error about a file in the words of the C library, as virsh prints it.
func openError(path string, err error) error {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err
	}
	text := errno.Error()
	return usagef("Failed to open file '%s': %s", path, strings.ToUpper(text[:1])+text[1:])
}
