import TestSupport

/// What the hook on dropped packets costs for those that are dropped for reasons
/// that no tuner cares about: 500,000 a second of a protocol that nobody knows.
func measureDrops() async throws -> [Row] {
  let namespace = try await TestNamespace("drops")
  let saved = try await SavedSysctls("kernel.bpf_stats_enabled")
  let seconds = 3.0

  /// Packets that were dropped, a second.
  func drop(_ rate: Int) async throws -> Double {
    let output = try await execute(
      Products.path("packet-sender"), "unknown", "lo", "\(rate)", "\(Int(seconds))",
      netns: namespace.name)
    let numbers = output.split(separator: " ").compactMap { Double($0) }
    guard numbers.count == 2 else { throw Command.Failure("packet-sender said: \(output)") }
    return numbers[0] / numbers[1] * 1e6
  }

  let others = BPFPrograms.ids()
  let daemon = try await Daemon("--allow", "net-buffer")
  let ours = BPFPrograms.ids().subtracting(others)
  try await TestNamespace.initial.set("kernel.bpf_stats_enabled", "1")
  let before = BPFPrograms.runTime(of: ours)["net_buffer_drop"] ?? (0, 0)
  let rate: Double
  do {
    rate = try await drop(500_000)
  } catch {
    await saved.restore()
    throw error
  }
  let after = BPFPrograms.runTime(of: ours)["net_buffer_drop"] ?? (0, 0)
  await saved.restore()
  let reached = daemon.lines.count { $0.contains("packets from lo") }
  try await daemon.stop()

  // As fast as the kernel drops them, with the daemon and without. A B B A.
  var with: [Double] = []
  var without: [Double] = []
  for pair in 0..<4 {
    for daemonRuns in pair % 2 == 0 ? [true, false] : [false, true] {
      if daemonRuns {
        let daemon = try await Daemon("--allow", "net-buffer")
        with.append(try await drop(100_000_000))
        try await daemon.stop()
      } else {
        without.append(try await drop(100_000_000))
      }
    }
  }
  await namespace.delete()
  let calls = Double(after.calls - before.calls)
  return [
    Row(
      what: "drops: for other reasons, a second", ours: rate, unit: "1/s", goal: .atLeast(490_000)),
    Row(
      what: "drops: the hook ran, of 100 drops", ours: calls / (rate * seconds) * 100,
      goal: .atLeast(99)),
    Row(
      what: "drops: BPF run time a drop",
      ours: Double(after.nanoseconds - before.nanoseconds) / max(1, calls), unit: "ns",
      goal: .atMost(50)),
    Row(what: "drops: events that reach user space", ours: Double(reached), goal: .atMost(0)),
    Row(
      what: "drops: as fast as it goes, with / without", ours: median(with),
      reference: median(without), unit: "1/s", goal: .none),
  ]
}
