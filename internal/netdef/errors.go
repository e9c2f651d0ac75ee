package netdef

import (
	"errors"
	"fmt"
)

// Code is the number libvirt gives to a kind of error (virErrorNumber). Every
// error that a client may see carries one, so that each door can say it in its
// own way.
type Code int

// The codes in use.
const (
	ErrInternal             Code = 1
	ErrNoSupport            Code = 3
	ErrNoConnect            Code = 5
	ErrInvalidArg           Code = 8
	ErrOperationFailed      Code = 9
	ErrNoName               Code = 21
	ErrXML                  Code = 27
	ErrOperationDenied      Code = 29
	ErrXMLDetail            Code = 35
	ErrInvalidNetwork       Code = 36
	ErrSystem               Code = 38
	ErrRPC                  Code = 39
	ErrNoNetwork            Code = 43
	ErrInvalidMAC           Code = 44
	ErrAuthFailed           Code = 45
	ErrOperationInvalid     Code = 55
	ErrNoNWFilter           Code = 62
	ErrConfigUnsupported    Code = 67
	ErrHookScriptFailed     Code = 70
	ErrArgumentUnsupported  Code = 74
	ErrAuthCancelled        Code = 79
	ErrOverflow             Code = 82
	ErrOperationUnsupported Code = 84
	ErrAccessDenied         Code = 88
	ErrDBusService          Code = 89
	ErrXMLInvalidSchema     Code = 92
	ErrAuthUnavailable      Code = 94
	ErrNoNWFilterBinding    Code = 101
	ErrInvalidNetworkPort   Code = 105
	ErrNetworkPortExist     Code = 106
	ErrNoNetworkPort        Code = 107
	ErrNoNetworkMetadata    Code = 111
)

// codePrefix is what libvirt puts before the detail (src/util/virerror.c); codes that
// are missing here have none.
var codePrefix = map[Code]string{
	ErrInternal:             "internal error: ",
	ErrNoSupport:            "this function is not supported by the connection driver: ",
	ErrNoConnect:            "no connection driver available for ",
	ErrInvalidArg:           "invalid argument: ",
	ErrOperationFailed:      "operation failed: ",
	ErrXML:                  "XML error: ",
	ErrOperationDenied:      "operation forbidden: ",
	ErrInvalidNetwork:       "invalid network pointer in ",
	ErrNoNetwork:            "Network not found: ",
	ErrInvalidMAC:           "invalid MAC address: ",
	ErrArgumentUnsupported:  "argument unsupported: ",
	ErrAuthFailed:           "authentication failed: ",
	ErrAuthCancelled:        "authentication cancelled: ",
	ErrAuthUnavailable:      "authentication unavailable: ",
	ErrAccessDenied:         "access denied: ",
	ErrDBusService:          "error from service: ",
	ErrOperationInvalid:     "Requested operation is not valid: ",
	ErrNoNWFilter:           "Network filter not found: ",
	ErrNoNWFilterBinding:    "Network filter binding not found: ",
	ErrConfigUnsupported:    "unsupported configuration: ",
	ErrHookScriptFailed:     "Hook script execution failed: ",
	ErrOverflow:             "numerical overflow: ",
	ErrOperationUnsupported: "Operation not supported: ",
	ErrXMLInvalidSchema:     "XML document failed to validate against schema: ",
	ErrNoNetworkPort:        "network port not found: ",
	ErrNoNetworkMetadata:    "metadata not found: ",
}

// Prefix is the fixed part that libvirt puts before the detail of errors with this code.
func (c Code) Prefix() string { return codePrefix[c] }

// Error is an error in libvirt's terms. Its text is libvirt's.
type Error struct {
	Code Code
	// Detail is the text without the code's prefix.
	Detail string
	// Where tells the place in the input, such as "line 7, <range>"; "" if
	// unknown. It is not part of Error(), since clients compare that text:
	// tools that show people where to look add it.
	Where string
	// Err is the cause, if there is one.
	Err error
}

// Errorf makes an Error of the given code. A cause can be wrapped with %w.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Detail: err.Error(), Err: errors.Unwrap(err)}
}

// Error is the message as libvirt's clients print it.
func (e *Error) Error() string {
	if e.Code == ErrNoName {
		return "missing name information"
	}
	return e.Code.Prefix() + e.Detail
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// CodeOf is the code of the first Error in err's chain, ErrInternal if there is none.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ErrInternal
}
