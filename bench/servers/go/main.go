// The echo server in Go, standard library only: a goroutine for each connection, buffered readers
// and writers.
//
//	main MODE          length, line, bulk, once, tls, udp; prints its port, serves until it is
//	                   killed; tls takes the files BENCH_CERT and BENCH_KEY
//	main MODE flush    flushes when it would have to wait for more, and not after each message
//	main --version     prints what it is
package main

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
)

const (
	lineMost = 65535 + 1
	bulkMost = 16 << 20
)

// echoer answers the next message; it does not flush.
type echoer func(r *bufio.Reader, w *bufio.Writer) error

// packages echoes what stands behind a big-endian length of so many bytes.
func packages(header, most int) func() echoer {
	return func() echoer {
		var buffer []byte
		return func(r *bufio.Reader, w *bufio.Writer) error {
			head, err := r.Peek(header)
			if err != nil {
				return err
			}
			length := int(binary.BigEndian.Uint16(head))
			if header == 4 {
				length = int(binary.BigEndian.Uint32(head))
			}
			if length > most {
				return bufio.ErrTooLong
			}
			if cap(buffer) < header+length {
				buffer = make([]byte, header+length)
			}
			buffer = buffer[:header+length]
			if _, err = io.ReadFull(r, buffer); err != nil {
				return err
			}
			_, err = w.Write(buffer)
			return err
		}
	}
}

func lines() echoer {
	return func(r *bufio.Reader, w *bufio.Writer) error {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		_, err = w.Write(line)
		return err
	}
}

type mode struct {
	echoer     func() echoer
	readBuffer int
	once       bool
}

var modes = map[string]mode{
	"length": {echoer: packages(2, 65535), readBuffer: 4096},
	"line":   {echoer: lines, readBuffer: lineMost},
	"bulk":   {echoer: packages(4, bulkMost), readBuffer: 4096},
	"once":   {echoer: packages(2, 65535), readBuffer: 4096, once: true},
	"tls":    {echoer: packages(2, 65535), readBuffer: 4096},
}

// flushing sends what was written before each read, which may wait.
type flushing struct {
	from io.Reader
	w    *bufio.Writer
}

func (f flushing) Read(p []byte) (int, error) {
	if err := f.w.Flush(); err != nil {
		return 0, err
	}
	return f.from.Read(p)
}

func serveConn(conn net.Conn, m mode, late bool) {
	defer conn.Close()
	echo := m.echoer()
	w := bufio.NewWriter(conn)
	var from io.Reader = conn
	if late {
		from = flushing{conn, w}
	}
	r := bufio.NewReaderSize(from, m.readBuffer)
	for {
		if err := echo(r, w); err != nil {
			return
		}
		if late && !m.once {
			continue
		}
		if err := w.Flush(); err != nil || m.once {
			return
		}
	}
}

func listen(name string) net.Listener {
	if name != "tls" {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		must(err)
		return listener
	}
	cert, err := tls.LoadX509KeyPair(os.Getenv("BENCH_CERT"), os.Getenv("BENCH_KEY"))
	must(err)
	config := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	must(err)
	return listener
}

// serve leaves TCP_NODELAY and the backlog as Go sets them: on, and what the system allows.
func serve(name string, m mode, late bool) {
	listener := listen(name)
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	for {
		conn, err := listener.Accept()
		must(err)
		go serveConn(conn, m, late)
	}
}

func serveUDP() {
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	must(err)
	fmt.Println(conn.LocalAddr().(*net.UDPAddr).Port)
	buffer := make([]byte, 64*1024)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buffer)
		must(err)
		_, _ = conn.WriteToUDPAddrPort(buffer[:n], from) // a datagram may be lost
	}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	args := append(os.Args[1:], "", "")
	m, known := modes[args[0]]
	switch {
	case args[0] == "--version":
		fmt.Println("Go", strings.TrimPrefix(runtime.Version(), "go"))
	case args[0] == "udp":
		serveUDP()
	case known:
		serve(args[0], m, args[1] == "flush")
	default:
		fmt.Fprintln(os.Stderr, "unsupported")
		os.Exit(2)
	}
}
