{{/* Labels of everything that the chart makes; the argument is [root, component]. */}}
{{- define "stokehold.labels" -}}
{{- $root := index . 0 -}}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
{{ include "stokehold.selector" . }}
{{- end }}

{{/* What selectors match: never changes between versions. */}}
{{- define "stokehold.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: stokehold
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Full name of one of our images: [root, "stoke"]. */}}
{{- define "stokehold.image" -}}
{{- $root := index . 0 -}}
{{- $images := $root.Values.images -}}
{{- $image := index $images (index . 1) -}}
{{- $registry := required "name the registry that holds the images: --set images.registry=registry.example.org" $images.registry -}}
{{- $name := printf "%s/%s" $registry $image.repository -}}
{{- if $image.digest -}}
{{ $name }}@{{ $image.digest }}
{{- else -}}
{{ $name }}:{{ $images.tag | default $root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "stokehold.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "stokehold.logs" -}}
- name: STOKE_LOG
  value: {{ .Values.logs.filter | quote }}
- name: STOKE_LOG_FORMAT
  value: {{ .Values.logs.format }}
{{- end }}

{{- define "stokehold.claim" -}}
{{ .Values.store.existingClaim | default "stokehold-store" }}
{{- end }}

{{/* Where and by whom a pod is run: the values of one component. */}}
{{- define "stokehold.placement" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector:
{{ toYaml . | indent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
{{ toYaml . }}
{{- end }}
{{- with .affinity }}
affinity:
{{ toYaml . | indent 2 }}
{{- end }}
{{- end }}

{{/* A container that could be in a namespace with Pod Security `restricted`. */}}
{{- define "stokehold.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* What the operator is told; see crates/stoke-kube. */}}
{{- define "stokehold.operatorConfig" -}}
{{- $images := dict
      "stoke" (include "stokehold.image" (list . "stoke"))
      "vm" (include "stokehold.image" (list . "vm"))
      "builder" (include "stokehold.image" (list . "builder"))
      "pullPolicy" .Values.images.pullPolicy
      "pullSecrets" .Values.images.pullSecrets -}}
{{- $webhook := dict "listen" "0.0.0.0:9443" "service" "stokehold-webhook" -}}
{{- $config := dict
      "namespace" .Release.Namespace
      "listen" "0.0.0.0:8080"
      "lease" "stokehold-operator"
      "agent" (dict "selector" "app.kubernetes.io/name=stokehold,app.kubernetes.io/component=agent" "port" 9444 "nodeLabels" .Values.agent.nodeLabels)
      "images" $images
      "store" (dict "claim" (include "stokehold.claim" .) "path" "/var/lib/stokehold")
      "serviceAccount" "stokehold-role"
      "storage" (include "stokehold.storage" .Values.storage | fromJson)
      "router" (include "stokehold.role" .Values.router | fromJson)
      "farm" (include "stokehold.role" .Values.farm | fromJson)
      "build" (merge (include "stokehold.role" (omit .Values.build "userNamespace" "scratch" "proxy") | fromJson) (pick .Values.build "userNamespace" "scratch" "proxy"))
      "vm" (include "stokehold.vm" .Values.vm | fromJson)
      "registries" (pick .Values.registries "allowed")
      "log" .Values.logs.filter
      "logJson" (eq .Values.logs.format "json")
      "overlay" (dict "port" (int .Values.overlay.port)) -}}
{{- if .Values.webhook.enabled }}{{ $_ := set $config "webhook" $webhook }}{{ end -}}
{{ toPrettyJson $config }}
{{- end }}

{{/* What node agents are told before the operator speaks to them; see crates/stoke-node. */}}
{{- define "stokehold.agentConfig" -}}
{{ toPrettyJson (dict
      "listen" "0.0.0.0:9444"
      "tls" "/etc/stokehold-tls"
      "run" "/run/stokehold"
      "devicePlugins" "/var/lib/kubelet/device-plugins") }}
{{- end }}

{{/* A role's placement, in the words of the operator's configuration. */}}
{{- define "stokehold.role" -}}
{{- $role := omit . "priorityClassName" "resources" -}}
{{- $resources := dict -}}
{{- range $kind, $amounts := .resources -}}
{{- $written := dict -}}
{{- range $what, $amount := $amounts }}{{ $_ := set $written $what (toString $amount) }}{{ end -}}
{{- $_ := set $resources $kind $written -}}
{{- end -}}
{{- if .resources }}{{ $_ := set $role "resources" $resources }}{{ end -}}
{{- with .priorityClassName }}{{ $_ := set $role "priorityClass" . }}{{ end -}}
{{ toJson $role }}
{{- end }}

{{- define "stokehold.vm" -}}
{{- $vm := include "stokehold.role" . | fromJson -}}
{{ toJson (merge (dict "cpuRequestMillis" (int .cpuRequestMillis)) $vm) }}
{{- end }}

{{- define "stokehold.storage" -}}
{{- $storage := pick . "routerSize" "persistent" -}}
{{- with .className }}{{ $_ := set $storage "class" . }}{{ end -}}
{{ toJson $storage }}
{{- end }}
