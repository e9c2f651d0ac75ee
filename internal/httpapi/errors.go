package httpapi

import (
	"context"
	"errors"
	"net/http"

	"viaduct/internal/netdef"
)

// statuses are the HTTP statuses of libvirt's codes. What is missing here is
// the host's fault or ours: 500.
var statuses = map[netdef.Code]int{
	netdef.ErrInvalidArg:        http.StatusBadRequest,
	netdef.ErrNoName:            http.StatusBadRequest,
	netdef.ErrXML:               http.StatusBadRequest,
	netdef.ErrXMLDetail:         http.StatusBadRequest,
	netdef.ErrXMLInvalidSchema:  http.StatusBadRequest,
	netdef.ErrInvalidMAC:        http.StatusBadRequest,
	netdef.ErrInvalidNetwork:    http.StatusBadRequest,
	netdef.ErrOverflow:          http.StatusBadRequest,
	netdef.ErrConfigUnsupported: http.StatusBadRequest,

	netdef.ErrOperationDenied: http.StatusForbidden,
	netdef.ErrAccessDenied:    http.StatusForbidden,
	netdef.ErrAuthFailed:      http.StatusForbidden,

	netdef.ErrNoNetwork:         http.StatusNotFound,
	netdef.ErrNoNetworkPort:     http.StatusNotFound,
	netdef.ErrNoNetworkMetadata: http.StatusNotFound,
	netdef.ErrNoSupport:         http.StatusNotFound,

	netdef.ErrOperationFailed:      http.StatusConflict,
	netdef.ErrOperationInvalid:     http.StatusConflict,
	netdef.ErrOperationUnsupported: http.StatusConflict,
	netdef.ErrNetworkPortExist:     http.StatusConflict,
}

func statusOf(err error) int {
	var input *inputError
	if errors.As(err, &input) {
		return http.StatusBadRequest
	}
	if s, ok := statuses[netdef.CodeOf(err)]; ok {
		return s
	}
	return http.StatusInternalServerError
}

// inputError is an error about a definition. It tells those among libvirt's
// "internal errors" that are about what the client sent from those that are
// about the host.
type inputError struct{ err error }

func (e *inputError) Error() string { return e.err.Error() }
func (e *inputError) Unwrap() error { return e.err }

// asNetdef is err in libvirt's terms.
func asNetdef(err error) *netdef.Error {
	var known *netdef.Error
	switch {
	case errors.As(err, &known):
		return known
	case errors.Is(err, context.Canceled):
		return netdef.Errorf(netdef.ErrOperationFailed, "canceled")
	}
	return netdef.Errorf(netdef.ErrInternal, "%w", err)
}
