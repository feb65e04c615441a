{{/* Names, labels, and what the objects of the installer share. */}}

{{- define "gantline.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 52 bytes: the longest suffix is "-installer", and a label's value has at most 63. */}}
{{- define "gantline.fullname" -}}
{{- $name := include "gantline.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "gantline.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: gantline
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "gantline.selector" -}}
app.kubernetes.io/name: gantline
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "gantline.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The chart's part of the configuration, the file 50-chart.toml of each node. */}}
{{- define "gantline.config" -}}
# Made of the values of the Helm release {{ .Release.Namespace }}/{{ .Release.Name }}: change them there. What is to hold on this node
# alone goes into a file of its own beside this one.
{{- with .Values.metrics }}
{{- if .enabled }}
[metrics]
address = {{ printf "%s:%v" .address (int .port) | quote }}
{{- end }}
{{- end }}
{{- with .Values.installer.config }}
{{ . | trim }}
{{- end }}
{{- end -}}

{{/* A pod of an installer: root; verb, install or remove; component; and nodeSelector or affinity. */}}
{{- define "gantline.pod" -}}
{{- $installer := .root.Values.installer -}}
metadata:
  labels:
    {{- include "gantline.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
    {{- with $installer.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- $annotations := deepCopy $installer.podAnnotations }}
  {{- if eq .verb "install" }}
  {{- /* Another configuration is another pod: what holds on a node is what its pod says. */}}
  {{- $_ := set $annotations "gantline/config" (include "gantline.config" .root | sha256sum) }}
  {{- end }}
  {{- with $annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "gantline.fullname" .root }}-installer
  automountServiceAccountToken: false
  {{- with .root.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $installer.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  # The node's network: before there is a pod network, to see who is connected to the socket, and so that a scrape of this pod
  # is one of the node's service.
  hostNetwork: true
  enableServiceLinks: false
  terminationGracePeriodSeconds: 10
  {{- with .affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  nodeSelector:
    {{- merge (dict "kubernetes.io/os" "linux") (.nodeSelector | default dict) | toYaml | nindent 4 }}
  {{- with $installer.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    seccompProfile:
      type: RuntimeDefault
    {{- with $installer.seLinuxOptions }}
    seLinuxOptions:
      {{- toYaml . | nindent 6 }}
    {{- end }}
  containers:
    - name: {{ .verb }}
      image: {{ include "gantline.image" .root }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      args: [{{ .verb }}]
      env:
        - name: BIN_DIR
          value: {{ $installer.binDir }}
        - name: UNIT_DIR
          value: {{ $installer.unitDir }}
        - name: STATE_DIR
          value: {{ $installer.stateDir }}
        - name: RUN_DIR
          value: {{ $installer.runDir }}
        - name: KUBELET_FILES
          value: {{ join " " $installer.kubeletFiles | default " " | quote }}
        - name: MANAGE_SERVICE
          value: {{ $installer.manageService | quote }}
        - name: INTERVAL
          value: {{ int $installer.interval | quote }}
        {{- if eq .verb "install" }}
        - name: EDITED_CONFIG
          value: {{ $installer.editedConfig }}
        - name: ADOPT
          value: {{ $installer.adopt | quote }}
        - name: NODE_IP
          valueFrom:
            fieldRef:
              fieldPath: status.hostIP
        {{- else }}
        - name: FORCE
          value: {{ $installer.removal.force | quote }}
        {{- end }}
      {{- if and (eq .verb "install") .root.Values.metrics.enabled }}
      ports:
        - name: metrics
          containerPort: {{ int .root.Values.metrics.port }}
      {{- end }}
      readinessProbe:
        exec:
          command: [/usr/bin/gantline-node, ready]
        periodSeconds: 3
        timeoutSeconds: 5
        failureThreshold: 1
      securityContext:
        # Root of the node's files, with one capability: to run the new binary, and systemctl, in the node's root directory.
        runAsUser: 0
        runAsGroup: 0
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
          add: [SYS_CHROOT]
      {{- with $installer.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        - name: host
          mountPath: /host
          mountPropagation: HostToContainer
        - name: tmp
          mountPath: /tmp
        {{- if eq .verb "install" }}
        - name: config
          mountPath: /config
          readOnly: true
        {{- end }}
  volumes:
    - name: host
      hostPath:
        path: {{ $installer.hostRoot }}
        type: Directory
    - name: tmp
      emptyDir:
        medium: Memory
        sizeLimit: 4Mi
    {{- if eq .verb "install" }}
    - name: config
      configMap:
        name: {{ include "gantline.fullname" .root }}-config
    {{- end }}
{{- end -}}
