import Glibc
import TestSupport

/// The round trip under load on a link of 20 Mbit/s with a queue of 2 MB, with
/// the kernel's own buffers and reno, which fills any queue.
func measureQueue() async throws -> [Row] {
  let path = try await Path(
    delay: 10, options: ["--rate-mbit", "20", "--queue-bytes", "2000000"])
  for end in [path.left, path.right] {
    try await end.set("net.ipv4.tcp_wmem", "4096 16384 4194304")
    try await end.set("net.ipv4.tcp_rmem", "4096 131072 33554432")
    try await end.set("net.ipv4.tcp_no_metrics_save", "1")
  }
  let server = try await Iperf.server(in: path.right)
  func run() async throws -> Iperf.Result {
    try await Iperf.run(
      from: path.left, to: Path.rightAddress.v4, seconds: 8, options: ["-C", "reno"])
  }
  var without: [Iperf.Result] = []
  for _ in 0..<3 { without.append(try await run()) }
  let daemon = try await Daemon("--allow", "tcp-buffer")
  // The connection that makes the queue keeps its buffer: those after it count.
  let first = try await run()
  var with: [Iperf.Result] = []
  for _ in 0..<3 { with.append(try await run()) }
  try await daemon.stop()
  server.signal(SIGTERM)
  await path.close()
  let shortest = 20.0
  return [
    Row(
      what: "20 Mbit/s, 2 MB queue: round trip under load without / at best",
      ours: median(without.map(\.meanRTT)) / 1000, reference: shortest, unit: "ms", goal: .none),
    Row(
      what: "the same, in the connection that the daemon learns from", ours: first.meanRTT / 1000,
      reference: shortest, unit: "ms", goal: .none),
    Row(
      what: "the same, with / at best", ours: median(with.map(\.meanRTT)) / 1000,
      reference: shortest, unit: "ms", goal: .atMost(1.5)),
    Row(
      what: "the same, throughput with / without", ours: median(with.map(\.rate)),
      reference: median(without.map(\.rate)), unit: "Mbit/s", goal: .atLeast(0.95)),
  ]
}
