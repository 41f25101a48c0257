import ArgumentParser
import CShims
import Glibc
import Kernel
import Logging
import State
import Synchronization
import Tuners

/// Runs the daemon until SIGTERM or SIGINT. The calling thread becomes the
/// kernel loop.
func runDaemon(_ options: Options, log: Logger) throws {
  try exiting {
    if let failure = missingPrivilege() { throw failure }
    let lock = try InstanceLock()
    let loop = try KernelLoop()
    let signals = bpftune_signal_fd()
    guard signals >= 0 else {
      throw Failure("cannot take signals: \(errorText())", exit: .failure)
    }
    let daemon = try describing { try Daemon(options: options, loop: loop, log: log) }
    let (stops, stop) = AsyncStream.makeStream(of: Int32.self)
    try loop.onReadable(signals) {
      while case let signal = bpftune_signal_next(signals), signal > 0 {
        // A terminal that goes away is no reason to stop a daemon.
        if signal != SIGHUP || options.foreground { stop.yield(signal) }
      }
    }
    Task(executorPreference: loop) {
      await daemon.run(until: stops)
      loop.stop()
    }
    loop.run()
    _ = consume lock
  }
}

/// Turns the errors of the modules below into a line and an exit status.
func describing<R>(_ body: () throws -> R) throws -> R {
  do {
    return try body()
  } catch let failure as Failure {
    throw failure
  } catch {
    throw Failure("\(error)", exit: .failure)
  }
}

/// Puts the daemon's parts together, and takes them apart again.
final class Daemon: Sendable {
  private let options: Options
  private let around: NetworkNamespace.Surroundings
  private let supervisor: Supervisor
  private let pump: EventPump
  private let hooks: Hooks
  private let modules: Modules
  private let log: Logger
  private let tunerEvents: [AsyncStream<KernelEvent>]
  private let sysctlEvents: AsyncStream<KernelEvent>
  private let namespaceEvents: AsyncStream<KernelEvent>
  private let server: ControlServer
  private let desk: Desk

  init(options: Options, loop: KernelLoop, log: Logger) throws {
    self.options = options
    self.log = log
    let directory = try NamespaceDirectory(loop: loop)
    let chosen = options.chosenTuners
    let cgroup = try CgroupRoot(path: options.cgroup)
    let programs = try Programs(
      cgroup: cgroup, families: options.hooks.families, dryRun: options.dryRun,
      overridePorts: options.overrideSocketBuffers.ports)
    around = NetworkNamespace.Surroundings(
      loop: loop, directory: directory,
      journal: Journal(
        loop: loop, own: directory.own, directory: options.stateDirectory, dryRun: options.dryRun,
        log: log),
      dryRun: options.dryRun, allowedRisks: Set(options.allowRisky.compactMap(\.risk)),
      holdOut: HoldOut(share: options.holdOut.share, boot: Machine.current().boot),
      gates: programs.gates(of: Hooks.Source.numbers(chosen)), log: log)
    // Streams before programs, so that the first event finds one.
    pump = try EventPump(programs: programs, directory: directory, loop: loop)
    tunerEvents = chosen.indices.map { [pump] index in
      pump.events(of: Hooks.Source.tuner(index))
    }
    // A full ring of them, and what comes while it is emptied.
    sysctlEvents = pump.events(of: Hooks.Source.sysctl, capacity: 4 * EventPump.streamCapacity)
    namespaceEvents = pump.events(of: Hooks.Source.namespaces)
    hooks = try Hooks(programs: programs, tuners: chosen)
    supervisor = Supervisor(
      around: around, policies: chosen, learningRate: options.learningRate)
    modules = Modules(
      options: options, programs: programs, pump: pump, around: around, supervisor: supervisor)
    server = ControlServer(log: log)
    let facts = Facts(
      around: around, supervisor: supervisor, hooks: hooks, modules: modules, pump: pump,
      options: options, cgroup: cgroup.path)
    desk = Desk(server: server, facts: facts, log: log)
    do {
      try server.listenLocally()
      if let address = options.metrics {
        let place = try server.listen(on: address)
        log.info("metrics at \(place)")
      }
      try server.giveUpPrivileges()
    } catch {
      server.abandon()
      throw error
    }
  }

  func run(until stops: AsyncStream<Int32>) async {
    for line in hooks.degraded + hooks.missing {
      let refusals = line.report.refusals.map { "\($0.hook): \($0.reason)" }
      log.info(
        "\(line.report.signal.name): by \(line.report.hook?.name ?? "nothing") (\(refusals.joined(separator: "; ")))"
      )
    }
    async let serving: Void = supervisor.run(
      hooks: hooks, tunerEvents: tunerEvents, sysctlEvents: sysctlEvents,
      namespaceEvents: namespaceEvents, losses: pump.lossReports, modules: modules,
      ready: { [self] in announce($0) })
    async let answering: Void = desk.serve()
    async let _: Void = tellAlive()
    for await signal in stops {
      log.info("stopping on signal \(signal)")
      break
    }
    ServiceManager.notify("STOPPING=1")
    server.finish()
    await answering
    await server.stop()
    await modules.stop()
    pump.finish()
    let putBack = await supervisor.stop(rollBack: options.rollback && !options.dryRun)
    await serving
    await summarize(putBack: putBack)
    await around.journal.close()
  }

  /// Feeds the service manager's watchdog, from a timer of the loop that takes
  /// events: when the loop is stuck, so is this. Without a watchdog no timer runs.
  private func tellAlive() async {
    guard let interval = ServiceManager.watchdogInterval else { return }
    while !Task.isCancelled {
      ServiceManager.notify("WATCHDOG=1")
      await around.loop.sleep(for: interval / 2)
    }
  }

  private func announce(_ tuners: [String]) {
    Memory.giveBackFreed()
    do {
      try Privileges.giveUp(allBut: Privileges.kept)
    } catch {
      log.warning("keeps capabilities that it does not need: \(error)")
    }
    let names = tuners.joined(separator: ", ")
    let mode = options.dryRun ? "advising (dry run)" : "tuning"
    log.info("bpftune \(Bpftune.version): \(mode) with \(names)")
    ServiceManager.notify("READY=1", "STATUS=\(mode) with \(names)")
  }

  /// What was changed, how often and why.
  private func summarize(putBack: Int) async {
    log.debug("events received: \(pump.received)")
    let totals = await around.journal.totals
    for finding in await supervisor.findings() { log.info("\(finding)") }
    if totals.isEmpty { log.info("nothing was changed") }
    for (tunable, total) in totals.sorted(by: { $0.key.name < $1.key.name }) {
      let why = total.scenarios.sorted { $0.key < $1.key }.map { "\($0.key): \($0.value)" }
      log.info(
        "\(tunable.name) was changed \(times(total.changes)) in \(total.namespaces.count) namespaces, first from \(total.first), last to \(total.last) (\(why.joined(separator: "; ")))"
      )
    }
    for (tuner, effects) in await around.journal.effects.sorted(by: { $0.key < $1.key }) {
      log.info(
        "\(tuner): \(effects.kept) changes kept, \(effects.takenBack) taken back, \(effects.unclear) not clear; \(effects.description)"
      )
    }
    if putBack > 0 { log.info("put back: \(putBack)") }
    let losses = pump.losses
    if !losses.isEmpty {
      log.warning("events lost: \(losses)")
    }
  }

  private func times(_ count: Int) -> String { count == 1 ? "once" : "\(count) times" }
}
