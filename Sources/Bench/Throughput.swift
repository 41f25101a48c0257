import Glibc
import TestSupport

/// What the daemon costs a connection at full speed, on a path without limits.
func measureThroughput() async throws -> [Row] {
  let namespace = try await TestNamespace("throughput")
  let server = try await Iperf.server(in: namespace)
  let saved = try await SavedSysctls("kernel.bpf_stats_enabled")

  func rate() async throws -> Double {
    try await Iperf.run(from: namespace, to: "127.0.0.1", seconds: 3).rate
  }
  _ = try await rate()  // warm up
  var with: [Double] = []
  var without: [Double] = []
  // A B B A, so that a drift of the machine hits both.
  for pair in 0..<6 {
    for daemonRuns in pair % 2 == 0 ? [true, false] : [false, true] {
      if daemonRuns {
        let daemon = try await Daemon()
        with.append(try await rate())
        try await daemon.stop()
      } else {
        without.append(try await rate())
      }
    }
  }

  let others = BPFPrograms.ids()
  let daemon = try await Daemon()
  let ours = BPFPrograms.ids().subtracting(others)
  try await TestNamespace.initial.set("kernel.bpf_stats_enabled", "1")
  let before = BPFPrograms.runTime(of: ours)
  let seconds = 5.0
  _ = try await Iperf.run(from: namespace, to: "127.0.0.1", seconds: seconds)
  let after = BPFPrograms.runTime(of: ours)
  await saved.restore()
  try await daemon.stop()
  server.signal(SIGTERM)
  await namespace.delete()

  var rows = [
    Row(
      what: "throughput on loopback, with / without", ours: median(with),
      reference: median(without), unit: "Mbit/s", goal: .atLeast(0.99))
  ]
  var total = 0.0
  for (name, run) in after.sorted(by: { $0.key < $1.key }) {
    let calls = run.calls - (before[name]?.calls ?? 0)
    let time = run.nanoseconds - (before[name]?.nanoseconds ?? 0)
    total += Double(time)
    guard calls > 100 else { continue }
    rows.append(
      Row(
        what: "BPF run time a call: \(name)", ours: Double(time) / Double(calls), unit: "ns",
        goal: .none))
  }
  rows.append(
    Row(
      what: "BPF share of a core at full speed", ours: total / (seconds * 1e9) * 100, unit: "%",
      goal: .none))
  return rows
}
