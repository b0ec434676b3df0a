// Package agenttest has a cluster for the tests of agents: gRPC servers over real TLS on
// loopback that share one state in memory. They let agents in, open sessions under growing
// epochs, deliver claims again in every session until they have a result, and confirm.
// Nodes can be killed and started again, and a test may refuse what agents say.
package agenttest
