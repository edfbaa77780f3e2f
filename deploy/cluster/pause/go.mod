module deepseek.ai/tools/pause

go 1.26.0
