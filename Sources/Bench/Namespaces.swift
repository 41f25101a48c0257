import Glibc
import TestSupport

/// CPU time to adopt a namespace, and memory for each of a thousand.
func measureNamespaces() async throws -> [Row] {
  let daemon = try await Daemon()
  let count = 1000
  try await Task.sleep(for: .seconds(1))
  let memory = daemon.anonymousMemory
  let cpu = daemon.cpuMicroseconds
  // Each is held by a process that does nothing else.
  let script = """
    for i in $(seq \(count)); do unshare -n sleep 600 & done
    echo "all started by $$"
    wait
    """
  let holders = try Command(["setsid", "sh", "-c", script])
  let line = try await holders.line(containing: "all started by", upTo: 60)
  // The session that setsid made has its own group, named after its leader.
  guard let group = line.split(separator: " ").last.flatMap({ Int32($0) }) else {
    throw Command.Failure("no process group in: \(line)")
  }
  try await eventually(upTo: 60, "all namespaces to be adopted") {
    daemon.lines.filter { $0.contains("watching it") }.count >= count
  }
  let adoption = Double(daemon.cpuMicroseconds - cpu) / Double(count)
  try await Task.sleep(for: .seconds(8))  // past the first sweep
  let each = Double(daemon.anonymousMemory - memory) / Double(count)
  kill(-group, SIGKILL)
  try await holders.wait()
  try await daemon.stop()
  return [
    Row(
      what: "namespace: CPU time to adopt", ours: adoption / 1000, unit: "ms", goal: .atMost(1)),
    Row(what: "namespace: memory for each of 1,000", ours: each, unit: "KB", goal: .atMost(8)),
  ]
}
