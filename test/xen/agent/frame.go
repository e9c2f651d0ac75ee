package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// packetSocket sees and sends the frames of a link.
func packetSocket(link string) (int, error) {
	i, err := net.InterfaceByName(link)
	if err != nil {
		return 0, err
	}
	all := uint16(unix.ETH_P_ALL)
	all = all<<8 | all>>8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, int(all))
	if err != nil {
		return 0, err
	}
	return fd, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index})
}

// frame sends frames.
func frame(args []string) error {
	fd, err := packetSocket(args[0])
	if err != nil {
		return err
	}
	for _, text := range args[1:] {
		data, err := hex.DecodeString(text)
		if err != nil {
			return err
		}
		if _, err := unix.Write(fd, data); err != nil {
			return err
		}
	}
	return nil
}

// hearing is how long hear waits.
const hearing = 90 * time.Second

// hear prints which of some texts it finds in frames that come in, until it
// has found the last of them.
func hear(args []string) error {
	fd, err := packetSocket(args[0])
	if err != nil {
		return err
	}
	var wanted [][]byte
	for _, text := range args[1:] {
		data, err := hex.DecodeString(text)
		if err != nil {
			return err
		}
		wanted = append(wanted, data)
	}
	fmt.Println("HEARING")
	buf := make([]byte, 65536)
	for end := time.Now().Add(hearing); time.Now().Before(end); {
		left := unix.NsecToTimeval(int64(time.Until(end)))
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &left)
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			break
		}
		if l, is := from.(*unix.SockaddrLinklayer); is && l.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		for i, w := range wanted {
			if bytes.Contains(buf[:n], w) {
				fmt.Println("HEARD", args[1+i])
				if i == len(wanted)-1 {
					return nil
				}
			}
		}
	}
	return fmt.Errorf("did not hear %s", args[len(args)-1])
}
