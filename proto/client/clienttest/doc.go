// Package clienttest has a cluster for the tests of programs that talk to one:
// several gRPC servers over real TLS on loopback, with certificates of the real
// form, that share one state in memory. It replicates nothing and schedules
// nothing; a command's invocations end as the agent's script says. Each node can
// be killed, frozen as by SIGSTOP, made to refuse, or made to lose an answer
// after the work was done.
package clienttest
