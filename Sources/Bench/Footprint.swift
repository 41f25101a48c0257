import TestSupport

/// Start to ready, and what the daemon costs while nothing happens.
func measureFootprint() async throws -> [Row] {
  var starts: [Double] = []
  for _ in 0..<5 {
    let begin = ContinuousClock.now
    let daemon = try await Daemon()
    starts.append(begin.duration(to: .now) / .seconds(1))
    try await daemon.stop()
  }
  let daemon = try await Daemon()
  try await Task.sleep(for: .seconds(1))
  let switches = daemon.voluntarySwitches
  let cpu = daemon.cpuMicroseconds
  let seconds = 30.0
  try await Task.sleep(for: .seconds(seconds))
  let rows = [
    Row(what: "start to ready", ours: median(starts), unit: "s", goal: .atMost(0.5)),
    Row(
      what: "idle: voluntary context switches",
      ours: Double(daemon.voluntarySwitches - switches) / seconds, unit: "1/s",
      goal: .atMost(0.2)),
    Row(
      what: "idle: CPU time a minute",
      ours: Double(daemon.cpuMicroseconds - cpu) / seconds * 60 / 1000, unit: "ms", goal: .none),
    Row(
      what: "idle: anonymous memory", ours: Double(daemon.anonymousMemory) / 1024, unit: "MB",
      goal: .atMost(3)),
    Row(
      what: "idle: resident memory", ours: Double(daemon.residentMemory) / 1024, unit: "MB",
      goal: .atMost(20)),
    Row(what: "idle: descriptors", ours: Double(daemon.descriptors), goal: .none),
  ]
  try await daemon.stop()
  return rows
}
