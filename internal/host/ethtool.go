package host

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Commands of linux/ethtool.h.
const (
	ethtoolGetTxChecksum = 0x16 // ETHTOOL_GTXCSUM
	ethtoolSetTxChecksum = 0x17 // ETHTOOL_STXCSUM
)

// ethtoolValue asks a card's driver for one number, or sets it.
func ethtoolValue(name string, cmd, data uint32) (uint32, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	value := struct{ cmd, data uint32 }{cmd, data}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:unix.IFNAMSIZ-1], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	runtime.KeepAlive(&value)
	if errno != 0 {
		return 0, errno
	}
	return value.data, nil
}

// checksumOffload reports whether a card computes the checksums of what it sends.
func checksumOffload(name string) (bool, error) {
	on, err := ethtoolValue(name, ethtoolGetTxChecksum, 0)
	return on != 0, err
}

func setChecksumOffload(name string, on bool) error {
	if _, err := ethtoolValue(name, ethtoolSetTxChecksum, flag(on)); err != nil {
		return fmt.Errorf("switch the checksum offload of %s: %w", name, err)
	}
	return nil
}
