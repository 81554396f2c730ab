// What runs in the test bed's nodes and pods: the first process of a node, the sandbox of a pod, and a server that says who it is.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	verb := "wait"
	if len(os.Args) > 1 {
		verb = os.Args[1]
	}
	switch verb {
	case "wait":
		wait()
	case "serve":
		serve(os.Args[2])
	case "get":
		get(os.Args[2])
	default:
		fmt.Fprintln(os.Stderr, "wait, serve ADDRESS or get URL")
		os.Exit(64)
	}
}

// wait waits for the end, and buries the children of others: it is process 1.
func wait() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for {
		for buried := 1; buried > 0; {
			buried, _ = syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		}
		if next := <-signals; next != syscall.SIGCHLD {
			return
		}
	}
}

func serve(address string) {
	name, _ := os.Hostname()
	go func() { wait(); os.Exit(0) }()
	fmt.Println("serving at", address)
	answer := func(writer http.ResponseWriter, request *http.Request) { fmt.Fprintln(writer, name, "here") }
	fmt.Fprintln(os.Stderr, http.ListenAndServe(address, http.HandlerFunc(answer)))
	os.Exit(1)
}

func get(url string) {
	answer, err := http.Get(url)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_, _ = io.Copy(os.Stdout, answer.Body)
}
