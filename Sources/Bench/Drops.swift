import BenchLoop
import Foundation
import TestSupport

/// What the hooks on dropped packets cost for those that are dropped for reasons
/// that no tuner cares about: 500,000 a second of a protocol that nobody knows.
///
/// The kernel's statistics read a clock around each program, which takes longer
/// than the programs: one that does nothing is measured beside them. What all of
/// it costs, the way into the programs too, is the time that a drop takes.
func measureDrops() async throws -> [Row] {
  /// Of every tuner that looks at all drops; names are cut at 15 characters.
  let hooks = ["net_buffer_drop", "udp_buffer_no_m", "ip_frag_freed", "conntrack_drop"]
  let empty = "empty_hook"
  let namespace = try await TestNamespace("drops")
  let saved = try await SavedSysctls("kernel.bpf_stats_enabled")

  /// Packets that were dropped, a second.
  func drop(_ rate: Int, seconds: Int) async throws -> Double {
    let output = try await execute(
      Products.path("packet-sender"), "unknown", "lo", "\(rate)", "\(seconds)",
      netns: namespace.name)
    let numbers = output.split(separator: " ").compactMap { Double($0) }
    guard numbers.count == 2 else { throw Command.Failure("packet-sender said: \(output)") }
    return numbers[0] / numbers[1] * 1e6
  }

  let others = BPFPrograms.ids()
  let daemon = try await Daemon()
  let nothing = empty_hook_attach("kfree_skb")
  guard nothing >= 0 else {
    throw Command.Failure("an empty program: \(String(cString: strerror(errno)))")
  }
  let ours = BPFPrograms.ids().subtracting(others)
  try await TestNamespace.initial.set("kernel.bpf_stats_enabled", "1")
  let seconds = 3
  let before = BPFPrograms.runTime(of: ours)
  let rate: Double
  do {
    rate = try await drop(500_000, seconds: seconds)
  } catch {
    close(nothing)
    await saved.restore()
    throw error
  }
  let after = BPFPrograms.runTime(of: ours)
  close(nothing)
  await saved.restore()
  let reached = daemon.lines.count { $0.contains("packets from lo") }
  try await daemon.stop()

  func calls(_ name: String) -> Double {
    Double((after[name]?.calls ?? 0) - (before[name]?.calls ?? 0))
  }
  /// Nanoseconds a call.
  func time(_ name: String) -> Double {
    let total = (after[name]?.nanoseconds ?? 0) - (before[name]?.nanoseconds ?? 0)
    return Double(total) / max(1, calls(name))
  }

  // As fast as the kernel drops them, with the daemon and without. A B B A.
  var with: [Double] = []
  var without: [Double] = []
  for pair in 0..<8 {
    for daemonRuns in pair % 2 == 0 ? [true, false] : [false, true] {
      if daemonRuns {
        let daemon = try await Daemon()
        with.append(1e9 / (try await drop(100_000_000, seconds: 2)))
        try await daemon.stop()
      } else {
        without.append(1e9 / (try await drop(100_000_000, seconds: 2)))
      }
    }
  }
  await namespace.delete()
  return [
    Row(
      what: "drops: for other reasons, a second", ours: rate, unit: "1/s", goal: .atLeast(490_000)),
    Row(
      what: "drops: the hook that ran least, of 100 drops",
      ours: (hooks.map(calls).min() ?? 0) / (rate * Double(seconds)) * 100, goal: .atLeast(99)),
  ]
    + hooks.map { hook in
      Row(
        what: "drops: BPF run time a drop, \(hook) / nothing", ours: time(hook),
        reference: time(empty), unit: "ns", goal: .none)
    }
    + [
      Row(
        what: "drops: the same, of all beyond that of nothing",
        ours: hooks.map { time($0) - time(empty) }.reduce(0, +), unit: "ns", goal: .atMost(50)),
      Row(what: "drops: events that reach user space", ours: Double(reached), goal: .atMost(0)),
      Row(
        what: "drops: time a drop, with / without", ours: median(with),
        reference: median(without), unit: "ns", goal: .none),
      Row(
        what: "drops: the same, a hook", ours: (median(with) - median(without)) / Double(hooks.count),
        unit: "ns", goal: .atMost(50)),
    ]
}
