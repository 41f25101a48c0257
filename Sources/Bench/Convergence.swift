import Foundation
import TestSupport

private let tcpWmem = "net.ipv4.tcp_wmem"
private let tcpRmem = "net.ipv4.tcp_rmem"

/// How soon and how well a path of 20 ms and 1 Gbit/s is filled, against
/// maxima of 64 MB set by hand.
func measureConvergence() async throws -> [Row] {
  let path = try await Path(delay: 10, options: ["--rate-mbit", "1000"])
  let server = try await Iperf.server(in: path.right)
  func run(_ seconds: Double) async throws -> Iperf.Result {
    try await Iperf.run(from: path.left, to: Path.rightAddress.v4, seconds: seconds)
  }

  // By hand, and what the connection's own buffers grow to then.
  try await path.setLargeBuffers()
  async let byHandRun = run(4)
  try await Task.sleep(for: .seconds(3))
  let needSend = try await buffer("tb", in: path.left)
  let needReceive = try await buffer("rb", in: path.right)
  let byHand = try await byHandRun

  // Send side: 64 KiB at the start, everything within the running connection.
  try await path.setLargeBuffers()
  try await path.left.set(tcpWmem, "4096 16384 65536")
  var daemon = try await Daemon()
  let send = try await run(4)
  let sendMaximum = try await path.left.maximum(tcpWmem)
  try await daemon.stop()
  let sendChanges = daemon.changes(of: tcpWmem).count

  // Receive side: 128 KiB at the start; the window scale of the first
  // connection is fixed by that, so the second one counts.
  try await path.setLargeBuffers()
  try await path.right.set(tcpRmem, "4096 131072 131072")
  daemon = try await Daemon()
  let first = try await run(3)
  let second = try await run(3)
  let receiveMaximum = try await path.right.maximum(tcpRmem)
  try await daemon.stop()
  let receiveChanges = daemon.changes(of: tcpRmem).count

  server.signal(SIGTERM)
  await path.close()
  return [
    Row(
      what: "send side: rate after 1 s, ours / 64 MB by hand", ours: send.rate(from: 1),
      reference: byHand.rate(from: 1), unit: "Mbit/s", goal: .atLeast(0.95)),
    Row(what: "send side: changes", ours: Double(sendChanges), goal: .atMost(3)),
    Row(
      what: "send side: maximum / what the path needs", ours: Double(sendMaximum),
      reference: needSend, unit: "bytes", goal: .atMost(4)),
    Row(
      what: "receive side: first connection, ours / 64 MB by hand", ours: first.rate(from: 1),
      reference: byHand.rate(from: 1), unit: "Mbit/s", goal: .none),
    Row(
      what: "receive side: second connection, ours / 64 MB by hand", ours: second.rate,
      reference: byHand.rate, unit: "Mbit/s", goal: .atLeast(0.95)),
    Row(what: "receive side: changes", ours: Double(receiveChanges), goal: .atMost(3)),
    Row(
      what: "receive side: maximum / what the path needs", ours: Double(receiveMaximum),
      reference: needReceive, unit: "bytes", goal: .atMost(4)),
  ]
}

/// Bytes: the largest buffer of a connection, `tb` or `rb` in `ss -tm`.
private func buffer(_ key: String, in namespace: TestNamespace) async throws -> Double {
  let text = try await execute("ss", "-tmn", netns: namespace.name)
  return text.split { ",() \n".contains($0) }
    .filter { $0.hasPrefix(key) }
    .compactMap { Double($0.dropFirst(key.count)) }
    .max() ?? 0
}
