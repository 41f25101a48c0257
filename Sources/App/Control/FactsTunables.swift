import Kernel
import State
import Tuners

/// About tunables: their values, whose they are, and why.
extension Facts {
  /// The tunables of the tuners that run, each once.
  func tunables() async -> [Tunable] {
    var seen: Set<Tunable> = []
    return await running().flatMap(\.description.tunables).filter { seen.insert($0).inserted }
  }

  /// Every tunable of one namespace; those of devices for each device.
  func states(in namespace: NetworkNamespace) async -> [Reply.TunableState] {
    let isOwn = namespace.id == around.directory.own
    var states: [Reply.TunableState] = []
    for tunable in await tunables() where isOwn || tunable.scope == .perNamespace {
      guard tunable.name.contains("*") else {
        states.append(await state(of: tunable, in: namespace))
        continue
      }
      for device in await namespace.devices(of: tunable) {
        states.append(await state(of: tunable.of(device: device), in: namespace))
      }
    }
    return states
  }

  func state(of tunable: Tunable, in namespace: NetworkNamespace) async -> Reply.TunableState {
    let current = try? await namespace.read(tunable)
    let owner = await around.journal.owner(of: tunable, in: namespace.id)
    var original = current.map { "\($0)" }
    var changes = 0
    var word = "kernel"
    switch owner {
    case .kernel: break
    case .us(let holding):
      word = "bpftune"
      original = "\(holding.original)"
      changes = holding.changes
      // Someone else's, though the write was not seen.
      if let current, current != holding.written { word = "administrator" }
    case .administrator: word = "administrator"
    }
    return Reply.TunableState(
      tunable: tunable.name, namespace: await title(namespace), tuners: await owners(of: tunable),
      current: current.map { "\($0)" }, original: original, owner: word, changes: changes)
  }

  func owners(of tunable: Tunable) async -> [String] {
    let pattern = tunable.pattern
    return await running().map(\.description).filter { $0.tunables.contains(pattern) }.map(\.name)
  }

  /// What the daemon or an administrator has set in other namespaces than the
  /// host's: tunables by namespace.
  func setElsewhere() async -> [NamespaceID: Set<Tunable>] {
    var places: [NamespaceID: Set<Tunable>] = [:]
    for holding in await holdings() {
      places[holding.namespace, default: []].insert(holding.tunable)
    }
    for namespace in await supervisor.all() {
      for write in await namespace.administratorWrites().values
      where write.tunable.scope == .perNamespace {
        places[namespace.id, default: []].insert(write.tunable)
      }
    }
    places[around.directory.own] = nil
    return places
  }

  func state(of tunable: Tunable, in id: NamespaceID) async -> Reply.TunableState? {
    guard let namespace = await supervisor.known(id) else { return nil }
    return await state(of: tunable, in: namespace)
  }

  // MARK: Explaining

  /// Tunables by their name, or by its last part.
  func tunables(named name: String) async throws -> [Tunable] {
    let path = name.hasPrefix("net/") ? name : Tunable(name, .text, .global, bounds: 0...0).path
    let found = await tunables().compactMap { tunable -> Tunable? in
      if tunable.name == name { return tunable }
      if let device = tunable.device(inPath: path) { return tunable.of(device: device) }
      return tunable.isCalled(name) ? tunable : nil
    }
    guard found.isEmpty else { return found }
    throw Problem(
      .notFound,
      "no tuner that runs changes \"\(name)\"; \"bpftune tunables\" lists what they change")
  }

  /// Why a tunable has its value in one namespace.
  func explain(
    _ tunable: Tunable, in namespace: NetworkNamespace
  ) async -> Reply.Explanation.Place {
    let state = await state(of: tunable, in: namespace)
    let owner = await around.journal.owner(of: tunable, in: namespace.id)
    var filter = HistoryFilter()
    filter.tunable = tunable.name
    let isOwn = namespace.id == around.directory.own
    filter.namespace = isOwn ? .own : .one(namespace.id)
    let records = await around.journal.history(filter).reversed().map { record(of: $0) }
    let place =
      isOwn
      ? ""
      : " --netns \(state.namespace.name.isEmpty ? "\(namespace.id.inode)" : state.namespace.name)"
    let tuner = state.tuners.first ?? ""
    var why: String
    var undo: [String] = []
    switch owner {
    case .kernel:
      why =
        "Nobody has set it while bpftune watched: it is the kernel's default, or what was set"
        + " before bpftune began."
    case .us(let holding):
      let since = Moment(milliseconds: holding.since / 1000).local
      why =
        "\(holding.tuner) has set it, \(holding.changes == 1 ? "once" : "\(holding.changes) times")"
        + " since \(since); before that it was \(holding.original)."
        + " The last time: \(holding.scenario): \(holding.reason)."
      if state.owner == "administrator" {
        why = "Someone else has set it since: bpftune wrote \(holding.written). " + why
      }
      undo = [
        "bpftune rollback \(tunable.name)\(place)",
        "bpftune disable \(holding.tuner)\(place)    # first, if it is not to change it again",
      ]
    case .administrator(let write):
      why =
        "\(write.reason). That is respected: \(state.tuners.joined(separator: " and ")) "
        + (state.tuners.count > 1 ? "leave" : "leaves") + " this namespace alone."
      undo = ["bpftune enable \(tuner)\(place)    # lets it tune again, from this value on"]
    }
    for off in await namespace.tunersTurnedOff().sorted() where state.tuners.contains(off) {
      why += " \(off) is turned off here by bpftune disable."
      undo.append("bpftune enable \(off)\(place)")
    }
    return .init(state: state, why: why, undo: undo, records: Array(records))
  }
}
