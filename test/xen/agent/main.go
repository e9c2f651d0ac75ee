// Command agent stands at the ends of a Xen host's networks. As the first
// process of a guest it runs what it is told on the console. By its name and
// arguments it is one of the small programs that are run so:
//
//	agent serve               answer at ports until the end
//	agent flow ADDR N         send N datagrams to a server, tell how many come back
//	agent upload ADDR TIME    send to a server as much as there is room for
//	agent download ADDR TIME  and the other way
//	agent frame LINK HEX      send a frame as it is
//	agent hear LINK HEX...    wait for frames that contain these bytes
package main

import (
	"fmt"
	"os"
)

var programs = map[string]func(args []string) error{
	"serve": serve, "flow": flow, "upload": upload, "download": download, "frame": frame, "hear": hear,
}

func main() {
	if os.Getpid() == 1 {
		fmt.Println("the agent ends:", live())
		return
	}
	if len(os.Args) < 2 || programs[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "agent: no such program")
		os.Exit(2)
	}
	if err := programs[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(1)
	}
}
