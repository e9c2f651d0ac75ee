package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"
)

// The ports of a server: who asks is told its address and gets its datagram
// back; a sink tells how fast it was filled; and a source.
const (
	echoPort   = "7"
	sinkPort   = "9"
	sourcePort = "19"
)

// settling is what a stream's speed is measured after: until then buffers and
// bursts fill.
const settling = 1500 * time.Millisecond

// serve answers until the end.
func serve([]string) error {
	echo, err := net.ListenPacket("udp", ":"+echoPort)
	if err != nil {
		return err
	}
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := echo.ReadFrom(buf)
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(from.String())
			echo.WriteTo(append(buf[:n:n], " "+host...), from)
		}
	}()
	streams := func(port string, handle func(net.Conn)) error {
		l, err := net.Listen("tcp", ":"+port)
		if err != nil {
			return err
		}
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					handle(conn)
				}()
			}
		}()
		return nil
	}
	err = errors.Join(
		streams(sinkPort, func(conn net.Conn) { fmt.Fprintln(conn, drain(conn)) }),
		streams(sourcePort, func(conn net.Conn) { fill(conn, time.Minute) }),
	)
	if err != nil {
		return err
	}
	fmt.Println("SERVING")
	select {}
}

// drain reads a stream to its end and tells how many bytes came in a second.
func drain(conn net.Conn) int64 {
	began := time.Now()
	var counted int64
	var from, last time.Time
	buf := make([]byte, 64<<10)
	for {
		n, err := conn.Read(buf)
		now := time.Now()
		switch {
		case n == 0 || now.Sub(began) < settling:
		case from.IsZero():
			from = now
		default:
			counted += int64(n)
			last = now
		}
		if err != nil {
			break
		}
	}
	if took := last.Sub(from).Seconds(); counted > 0 && took > 0 {
		return int64(float64(counted) / took)
	}
	return 0
}

// fill writes for some time.
func fill(conn net.Conn, length time.Duration) error {
	conn.SetWriteDeadline(time.Now().Add(length))
	for buf := make([]byte, 32<<10); ; {
		if _, err := conn.Write(buf); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return nil
			}
			return err
		}
	}
}

// upload prints how many bytes per second a server got.
func upload(args []string) error {
	length, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(args[0], sinkPort), 20*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := fill(conn, length); err != nil {
		return err
	}
	conn.(*net.TCPConn).CloseWrite()
	answer, err := io.ReadAll(conn)
	fmt.Print("RATE ", string(answer))
	return err
}

// download prints how many bytes per second came from a server.
func download(args []string) error {
	length, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(args[0], sourcePort), 20*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(length))
	fmt.Println("RATE", drain(conn))
	return nil
}

const (
	// pace is the time between two datagrams of a flow.
	pace = 20 * time.Millisecond
	// patience is how long the last answers of a flow may take.
	patience = 10 * time.Second
)

// flow sends numbered datagrams and prints how many were sent, how many came
// back, and whose address the server saw. It waits for the first before it
// goes on, and says so: from then on all count.
func flow(args []string) error {
	count, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	conn, err := net.Dial("udp", net.JoinHostPort(args[0], echoPort))
	if err != nil {
		return err
	}
	defer conn.Close()
	send := func(number int) { conn.Write(binary.BigEndian.AppendUint32(nil, uint32(number))) }
	buf := make([]byte, 2048)
	seenAs := ""
	for try := 0; seenAs == ""; try++ {
		if try == 20 {
			return errors.New("no answer")
		}
		send(0)
		conn.SetReadDeadline(time.Now().Add(time.Second))
		if n, err := conn.Read(buf); err == nil && n > 5 {
			seenAs = string(buf[5:n])
		}
	}
	fmt.Println("FLOWING", seenAs)
	conn.SetReadDeadline(time.Time{})
	go func() {
		for i := range count {
			send(i + 1)
			time.Sleep(pace)
		}
		conn.SetReadDeadline(time.Now().Add(patience))
	}()
	came := map[uint32]bool{}
	for len(came) < count {
		n, err := conn.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if number := binary.BigEndian.Uint32(buf); err == nil && n > 5 && number > 0 {
			came[number] = true
		}
	}
	fmt.Println("FLOWED", count, len(came), seenAs)
	return nil
}
