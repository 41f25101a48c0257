import Foundation
import TestSupport

/// How often the kernel grows the buffers of a connection of 300 KB over 10 ms:
/// with starting sizes that the daemon has learned, against the kernel's own.
func measureStartingSizes() async throws -> [Row] {
  let path = try await Path(delay: 5)
  try await path.setLargeBuffers()
  let before = try await growths(path, port: 8301, connections: 96)
  let daemon = try await Daemon("--allow", "tcp-start")
  _ = try await growths(path, port: 8302, connections: 192)
  let after = try await growths(path, port: 8303, connections: 96)
  let changes =
    daemon.changes(of: "net.ipv4.tcp_wmem").count + daemon.changes(of: "net.ipv4.tcp_rmem").count
  let send = Double(try await path.right.sysctl("net.ipv4.tcp_wmem").split(separator: " ")[1]) ?? 0
  try await daemon.stop()
  await path.close()
  return [
    Row(
      what: "starting sizes: growths of a send buffer, learned / not", ours: after.send,
      reference: before.send, unit: "a connection", goal: .atMost(0.1)),
    Row(
      what: "starting sizes: growths of a receive buffer, learned / not", ours: after.receive,
      reference: before.receive, unit: "a connection", goal: .atMost(0.1)),
    Row(what: "starting sizes: send buffer, learned", ours: send, unit: "bytes", goal: .none),
    Row(what: "starting sizes: changes, both ends", ours: Double(changes), goal: .atMost(6)),
  ]
}

/// Growths a connection: of the service's send buffer, of the client's receive
/// buffer.
private func growths(
  _ path: Path, port: Int, connections: Int
) async throws -> (send: Double, receive: Double) {
  let service = try await TCPLoad.responder(in: path.right, port: port, bytes: 300_000)
  let receive = try await TCPLoad.request(
    from: path.left, to: Path.rightAddress.v4, port: port, count: connections)
  try await service.line(containing: "served \(connections) ")
  service.signal(SIGTERM)
  let send = Double(service.lines.last?.split(separator: " ").last ?? "") ?? -1
  return (send / Double(connections), Double(receive) / Double(connections))
}
